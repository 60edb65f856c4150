"""`phi-jax plan`: does a training run fit the devices, and how long does it take?"""

from __future__ import annotations

import dataclasses
import importlib.util
import os

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.parallel.child import run_child
from phi_jax.planning.hardware import GPU_SHARE, LIBTPU_ENVIRONMENT, Hardware, parse_devices, parse_topology

ASSUMED_MFU = 0.4


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
    seconds: float | None  # of compiling for these devices; None: only estimated
    fitting: Fit | None = None  # where it does not fit: with more microbatches it does

    @property
    def compiled(self) -> bool:
        return self.seconds is not None and self.fits


@dataclasses.dataclass(frozen=True)
class Duration:
    """The training of one model at the assumed MFU."""

    model: str
    steps: int
    tokens: int
    hours: float


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

    @property
    def fits(self) -> bool:
        return all(fit.fits for fit in self.sections)


def plan(config: Config, *, topology: str | None, devices: str | None, mfu: float = ASSUMED_MFU) -> Plan:
    """Plans a run on TPU slices (`topology`, e.g. "v5e:4x4") or on GPUs (`devices`, e.g. "8xH100"): one of the two.

    Reads config.model, tokenize, models and the sections of rules that the models name. For TPUs the real step is
    compiled by libtpu, on a machine that has none; for GPUs memory is an analytic estimate. Works in a child process:
    libtpu's environment does not leak, a compiler that crashes is one line, and no accelerator of this machine is
    taken. Raises UserError for unknown hardware, a config that it cannot run, or libtpu that is not installed.
    """
    import pydantic

    if (topology is None) == (devices is None):
        raise UserError("plan needs the devices: either --topology, e.g. v5e:4x4, or --devices, e.g. 8xH100")
    hardware = parse_topology(topology) if topology is not None else parse_devices(str(devices))
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu}: must be above 0 and at most 1")
    if hardware.is_tpu and importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology needs libtpu, the TPUs' compiler; install it: pip install 'phi-jax[plan]'")
    # A compilation that comes from a cache says nothing of seconds, and may say nothing of memory.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_PLATFORMS": "cpu", **(LIBTPU_ENVIRONMENT if hardware.is_tpu else {})}
    request = {"config": config.to_dict(), "hardware": hardware.text, "mfu": mfu}
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
    for fit in plan.sections:
        out += [f"{fit.rules}: {_memory(fit)}", *([] if fit.compiled else [f"  {_parts(fit)}"])]
        if fit.fitting is not None:
            setting = f"--config.{fit.rules}.microbatches={fit.fitting.microbatches}"
            out.append(f"  fits with {setting}: {_memory(fit.fitting)}")
        elif not fit.fits:
            out.append("  no number of microbatches fits: take more remat, another mesh, or more or larger devices")
    out.append(f"GFLOPs a token, forward and backward: {plan.flops_per_token / 1e9:.3g} with full attention")
    width = max(len(d.model) for d in plan.durations)
    out.append(f"{'model':{width}} {'steps':>9} {'tokens':>9} {'hours':>9} {'device-hours':>12}")
    for d in plan.durations:
        tokens = f"{d.tokens / 1e9:,.2f}B"
        out.append(f"{d.model:{width}} {d.steps:9,} {tokens:>9} {d.hours:9,.1f} {d.hours * devices:12,.0f}")
    out.append(
        f"assumed: {plan.mfu:.0%} (--mfu) of {chip.peak_flops / 1e12:,.0f} bfloat16 TFLOP/s a device "
        f"({chip.source}), full attention counted; no compile, checkpoint, validation or failure time"
    )
    return out


def _memory(fit: Fit) -> str:
    rows = f"{fit.rows} sequence{'s' if fit.rows > 1 else ''} a device in each of {fit.microbatches} microbatches"
    mesh = ", ".join(f"{axis} {size}" for axis, size in fit.mesh.items())
    how = f"as compiled in {fit.seconds:.0f} s" if fit.compiled else "analytic estimate"
    verdict = "fits" if fit.fits else "DOES NOT FIT" if fit.seconds is None else "the compiler says it DOES NOT FIT"
    needed = f"{_gib(fit.needed_bytes)} of {_gib(fit.limit_bytes)}"
    return f"{rows} (mesh {mesh}) need {needed} at the peak of a step, {how}: {verdict}"


def _parts(fit: Fit) -> str:
    return ", ".join(f"{name} {_gib(size)}" for name, size in fit.parts.items())


def _gib(size: int) -> str:
    return f"{size / 2**30:,.3g} GiB"
