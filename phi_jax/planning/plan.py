"""`phi-jax plan`: does a training run fit the devices, how long does it take, what do they say to each other?"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.parallel.chips import Chip
from phi_jax.planning.hardware import LIBTPU_ENVIRONMENT, Hardware, parse_devices, parse_topology
from phi_jax.planning.search import GPU_SHARE, Fit, fields_text
from phi_jax.progress import say

ASSUMED_MFU = 0.4


@dataclasses.dataclass(frozen=True)
class Duration:
    """One training stage at the assumed MFU."""

    stage: str
    steps: int
    tokens: int
    hours: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs on these devices."""

    hardware: str  # as asked for, e.g. "2xv5e:4x4"
    chip: Chip
    devices: int
    parameters: int
    model: str  # kernel, compute dtype
    flops_per_token: float  # matmuls, attention in full
    flops_per_token_causal: float  # matmuls, the causal half of attention
    mfu: float  # assumed; of the full-attention FLOPs
    durations: list[Duration]
    fit: Fit
    proposal: dict[str, Any] | None  # fields to set, by dotted path, where it does not fit
    proposed_fit: Fit | None
    versions: dict[str, str]


def plan(config: Config, *, topology: str | None, devices: str | None, mfu: float = ASSUMED_MFU) -> Plan:
    """Plans a run on TPU slices (`topology`, e.g. "v5e:4x4") or on GPUs (`devices`, e.g. "8xH100"): one of the two.

    For TPUs the real step is compiled by libtpu, on a machine that has none; for GPUs memory is an analytic estimate.
    Works in a child process: libtpu's environment does not leak, a compiler that crashes is one line, and no
    accelerator of this machine is taken. Raises UserError for unknown hardware, a config that it cannot run, or
    libtpu that is not installed.
    """
    if (topology is None) == (devices is None):
        raise UserError("plan needs the devices: either --topology, e.g. v5e:4x4, or --devices, e.g. 8xH100")
    hardware = parse_topology(topology) if topology is not None else parse_devices(str(devices))
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu}: must be above 0 and at most 1")
    if hardware.is_tpu and importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology needs libtpu, the TPUs' compiler; install it: pip install 'phi-jax[plan]'")
    return _in_child(config, hardware, mfu)


def _in_child(config: Config, hardware: Hardware, mfu: float) -> Plan:
    # A compilation that comes from a cache says nothing of seconds, and may say nothing of memory.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["JAX_PLATFORMS"] = "cpu"
    if hardware.is_tpu:
        environment |= LIBTPU_ENVIRONMENT
    request = json.dumps({"config": config.to_dict(), "hardware": hardware.text, "mfu": mfu})
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch, "errors"), "w+") as errors:
        answer = Path(scratch, "answer")
        child = subprocess.Popen(
            [sys.executable, "-m", "phi_jax.planning.child", str(answer)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has crashed already: its answer will be missing
                child.stdin.write(request)
                child.stdin.close()
            for line in child.stdout:
                say(line.rstrip())
            code = child.wait()
        finally:
            child.kill()
        if not answer.exists():
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no word"])[-1]
            raise UserError(f"plan {hardware.text}: the compiling process ended with {code} ({last}); try other sizes")
        result = pickle.loads(answer.read_bytes())
    if isinstance(result, UserError):
        raise result
    return result


def lines(plan: Plan) -> list[str]:
    """The plan for people, a fact a line."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.fit.mesh.items())
    out = [
        f"model: {plan.parameters:,} parameters, {plan.model}, remat {plan.fit.remat}",
        f"devices: {plan.devices} x {plan.chip.name} ({plan.hardware}), mesh {mesh}",
        f"{plan.fit.stage}: microbatches {plan.fit.microbatches}, in each {_rows(plan.fit)}",
        _memory_line(plan.fit, plan.chip),
    ]
    if plan.fit.method == "analytic":
        out.append("analytic, by part: " + _parts(plan.fit))
    if plan.proposal is not None and plan.proposed_fit is not None:
        how = "compiled for these devices too" if plan.proposed_fit.method == "compiled" else "an analytic estimate too"
        needed = _gib(plan.proposed_fit.needed_bytes or 0)
        out.append(f"fits with ({needed} a device, {how}): {fields_text(plan.proposal)}")
    elif not plan.fit.fits:
        out.append("no microbatches, remat or mesh were found that fit: take more or larger devices")
    compiled = (plan.proposed_fit or plan.fit).compiled
    if compiled is not None:
        kinds = ", ".join(f"{c.kind} {c.count} x ({_gib(c.bytes)} in all)" for c in compiled.collectives)
        versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
        out.append(f"collectives in the program, bodies of loops counted once: {kinds or 'none'}")
        out.append(f"compiled in {compiled.seconds:.0f} s ({versions})")
    full, causal = plan.flops_per_token / 1e9, plan.flops_per_token_causal / 1e9
    out.append(
        f"GFLOPs a token, forward and backward: {full:.3f} with full attention, {causal:.3f} with its causal half"
    )
    for d in plan.durations:
        out.append(
            f"{d.stage}: {d.steps:,} steps, {d.tokens / 1e9:,.2f}B tokens: {d.hours:,.1f} hours, "
            f"{d.hours * plan.devices:,.0f} device-hours"
        )
    out.append(
        f"assumed: {plan.mfu:.0%} (--mfu) of {plan.chip.peak_flops / 1e12:,.0f} bfloat16 TFLOP/s a device "
        f"({plan.chip.source}), full attention counted; no compile, checkpoint, validation or failure time"
    )
    return out


def _memory_line(fit: Fit, chip: Chip) -> str:
    needed = "more than there is" if fit.needed_bytes is None else _gib(fit.needed_bytes)
    of = f"of {_gib(chip.memory_bytes)} a device"
    if fit.method == "analytic":
        verdict = "fits" if fit.fits else "DOES NOT FIT"
        return (
            f"memory, analytic estimate: {needed} {of} at the peak of a step: {verdict} in the "
            f"{_gib(fit.limit_bytes)} of XLA_PYTHON_CLIENT_MEM_FRACTION={GPU_SHARE}"
        )
    if fit.fits:
        return f"memory: {needed} {of} at the peak of a step, as compiled: fits"
    return f"memory: at least {needed} {of}, {_gib(fit.limit_bytes)} of it for programs, as compiled: DOES NOT FIT"


def _rows(fit: Fit) -> str:
    return f"{fit.rows} sequence{'s' if fit.rows > 1 else ''} a device"


def _parts(fit: Fit) -> str:
    return ", ".join(f"{name} {_gib(size)}" for name, size in fit.parts.items())


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:,.2f} MiB"
