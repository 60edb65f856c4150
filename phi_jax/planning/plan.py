"""`phi-jax plan`: does a training run fit the devices, and how long does it take?"""

from __future__ import annotations

import dataclasses
import os

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.parallel.child import run_child
from phi_jax.planning.bound import Bound
from phi_jax.planning.compiled import Program
from phi_jax.planning.hardware import (
    GPU_SHARE,
    LIBTPU_ENVIRONMENT,
    Hardware,
    compiler_is_here,
)

ASSUMED_MFU = 0.4
PAPER_DROPOUT = 0.1  # of attention weights (paper, section 2.3)


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a step under one section of rules needs on one device."""

    rules: str  # the config's section: "training", "finetune"
    fits: bool
    needed_bytes: int  # at the peak of a step: as compiled where it is, else estimated
    limit_bytes: int  # what a step may take
    mesh: dict[str, int]
    microbatches: int
    rows: int  # sequences of a microbatch on one device
    parts: dict[str, int]  # estimated bytes, by what they hold
    program: Program | None  # compiled for these devices; None: only estimated
    bound: Bound  # of a step
    dropout_bound: Bound  # the same with the kernel xla, the paper's attention dropout, and remat full
    fitting: Fit | None = None  # where it does not fit: with more microbatches it does

    @property
    def compiled(self) -> Program | None:
        """The program, where the compiler did not refuse it."""
        return self.program if self.program and self.program.memory else None


@dataclasses.dataclass(frozen=True)
class Duration:
    """The training of one model."""

    model: str
    steps: int
    tokens: int
    hours: float  # at the assumed MFU
    bound_hours: float  # at least, by arithmetic
    dropout_hours: float  # likewise with the kernel xla, the paper's attention dropout, and remat full


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs on these devices."""

    hardware: Hardware
    mfu: float  # assumed; of the full-attention FLOPs
    durations: list[Duration]
    sections: list[Fit]  # one for each section of rules
    parameters: int
    model: str  # kernel, compute dtype, remat
    flops_per_token: float  # matmuls, attention in full
    compiles: bool  # whether the compiler for this hardware is installed

    @property
    def fits(self) -> bool:
        return all(fit.fits for fit in self.sections)


def plan(config: Config, hardware: Hardware, mfu: float = ASSUMED_MFU) -> Plan:
    """Plans a run on these devices.

    Reads config.model, tokenize, models and the sections of rules that the models name. For TPUs the real step is
    compiled by libtpu, for GPUs by jax's CUDA plugin, on a machine that has none; without the plugin memory is an
    analytic estimate. Works in a child process:
    libtpu's environment does not leak, a compiler that crashes is one line, and no accelerator of this machine is
    taken. Raises UserError for a config that the hardware cannot run, or libtpu that is not installed.
    """
    import pydantic

    compiles = compiler_is_here(hardware)
    if hardware.is_tpu and not compiles:
        raise UserError("--devices of TPUs needs libtpu, the TPUs' compiler; install it: pip install 'phi-jax[plan]'")
    # A compilation that comes from a cache says nothing of seconds, and may say nothing of memory.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_PLATFORMS": "cpu", **(LIBTPU_ENVIRONMENT if hardware.is_tpu else {})}
    request = {"config": config.to_dict(), "hardware": hardware.text, "mfu": mfu, "compiles": compiles}
    found = run_child("phi_jax.planning.fit:make_plan", request, environment=environment)
    return pydantic.TypeAdapter(Plan).validate_python(found)


def lines(plan: Plan) -> list[str]:
    """The plan for people: what it is for, what each section of rules needs, then a table of hours."""
    chip, devices = plan.hardware.chip, plan.hardware.devices
    share = "" if plan.hardware.is_tpu else f", {GPU_SHARE:.0%} of it for XLA (XLA_PYTHON_CLIENT_MEM_FRACTION)"
    out = [
        f"model: {plan.parameters:,} parameters, {plan.model}",
        f"devices: {devices} x {chip.name} ({plan.hardware.text}), {_gib(chip.memory_bytes)} each{share}",
    ]
    if not plan.compiles:
        out.append(
            "memory is an analytic estimate: jax's CUDA plugin, the GPUs' compiler, is not installed; it needs no GPU: "
            "pip install 'phi-jax[plan]'"
        )
    for fit in plan.sections:
        out.append(f"{fit.rules}: {_memory(fit)}")
        if not (fit.program and fit.fits):
            out.append(f"  {', '.join(f'{name} {_gib(size)}' for name, size in fit.parts.items())}")
        if fit.fitting is not None:
            out.append(
                f"  fits with --config.{fit.rules}.microbatches={fit.fitting.microbatches}: {_memory(fit.fitting)}"
            )
        elif not fit.fits:
            out.append("  no number of microbatches fits: take more remat, another mesh, or more or larger devices")
        out += _about(fit.fitting or fit)
    out.append(f"GFLOPs a token, forward and backward: {plan.flops_per_token / 1e9:.3g} with full attention")
    width = max(len(d.model) for d in plan.durations)
    out.append(
        f"{'model':{width}} {'steps':>9} {'tokens':>9} {'hours':>9} {'device-hours':>12} {'bound':>9} {'xla':>9}"
    )
    for d in plan.durations:
        out.append(
            f"{d.model:{width}} {d.steps:9,} {d.tokens / 1e9:8,.2f}B {d.hours:9,.1f} {d.hours * devices:12,.0f} "
            f"{d.bound_hours:9,.1f} {d.dropout_hours:9,.1f}"
        )
    return [
        *out,
        f"hours: at an assumed {plan.mfu:.0%} (--mfu) of {chip.peak_flops / 1e12:,.0f} bfloat16 TFLOP/s a device "
        f"({chip.source}), full attention counted; no compile, checkpoint, validation or failure time",
        "bound: hours by arithmetic on published peaks, not a measurement: no such run is faster",
        f"xla: that bound with the kernel xla, remat full and the paper's attention dropout of {PAPER_DROPOUT}; "
        "cudnn and splash have none",
    ]


def _memory(fit: Fit) -> str:
    how, verdict = "analytic estimate", "fits" if fit.fits else "DOES NOT FIT"
    if program := fit.compiled:
        each = ", ".join(f"{who} {_gib(size)}" for who, size in program.memory.items())
        how = f"as compiled in {program.seconds:.0f} s ({each})"
    elif fit.program:
        verdict = "the compiler says it DOES NOT FIT"
    return (
        f"{fit.rows} sequence{'s' if fit.rows > 1 else ''} a device in each of {fit.microbatches} microbatches (mesh "
        f"{', '.join(f'{axis} {size}' for axis, size in fit.mesh.items())}) need {_gib(fit.needed_bytes)} of "
        f"{_gib(fit.limit_bytes)} at the peak of a step, {how}: {verdict}"
    )


def _about(fit: Fit) -> list[str]:
    """The compiled program, and the bound."""
    parts = ", ".join(f"{name} {seconds:.3g} s ({by})" for name, (seconds, by) in fit.bound.parts.items())
    bound = f"  bound of a step: {fit.bound.seconds:.3g} s: {parts}; the exchanges may run beside the rest"
    program = fit.compiled
    if program is None:
        return [bound]
    each = "".join(f"{times:,} {kind} {_gib(size)}, " for kind, (times, size) in program.exchanges.items())
    return [
        f"  attention became {', '.join(program.kernels) or 'products and softmax, no fused kernel'}",
        f"  a device receives in a step: {each}{_gib(fit.bound.exchanged_bytes)} by arithmetic at least",
        bound,
    ]


def _gib(size: int) -> str:
    return f"{size / 2**30:,.3g} GiB"
