"""Does a step fit in a device's memory, and if not, with which settings would it?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_ways, check_batch, make_mesh
from phi_jax.planning.compiled import CompiledStep, DoesNotFit, compile_step
from phi_jax.planning.hardware import Hardware
from phi_jax.planning.memory import estimate_memory, rows_per_device
from phi_jax.training.rules import model_config

GPU_SHARE = 0.9  # of a GPU's memory that XLA gets: XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 (its own default is 0.75)
_REMAT = ("none", "dots", "full")  # what they keep falls, what they compute twice rises
_TRIES = 4  # settings compiled at most in search of some that fit; a compilation takes minutes


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the more demanding stage of a config needs on one device."""

    stage: str  # "pretraining" or "finetuning"
    method: str  # "compiled" for these devices, or "analytic"
    fits: bool
    needed_bytes: int | None  # at the peak of a step, or at least where the compiler gave up; None: it didn't say
    limit_bytes: int  # what a step may take
    mesh: dict[str, int]
    microbatches: int
    rows: int  # sequences of a microbatch on one device
    remat: str
    parts: dict[str, int]  # analytic, by what it holds
    compiled: CompiledStep | None


def model_shape(config: Config) -> PhiConfig:
    """The model that config.model and config.tokenize describe."""
    return model_config(config.model, vocab_size=config.tokenize.vocab_size, seq_len=config.tokenize.seq_len)


def stages(config: Config) -> dict[str, Config]:
    """Name -> rules of each training stage: pretraining, and finetuning where the config has it."""
    found = {"pretraining": config.training}
    if "finetune" in config.to_dict():
        found["finetuning"] = config.finetune.over(config.training)
    return found


def check_fit(config: Config, hardware: Hardware, devices: Sequence[Any]) -> Fit:
    """Compiles the step of the stage that the analytic model gives more memory, for a TPU; for GPUs, only estimates.

    devices: jax devices, those of the topology, or as many pretended ones as there are GPUs. Raises UserError where
    the mesh, the batch and the model do not divide each other.
    """
    return _fit(config, hardware, _demanding_stage(config, devices))


def propose(
    config: Config, hardware: Hardware, devices: Sequence[Any], say: Callable[[str], None]
) -> tuple[dict[str, Any], Fit] | None:
    """(fields to set, what is then needed) of the first settings that fit, or None where none were found.

    In this order: more microbatches, then more remat, then, where config.training.mesh holds a -1, parameters cut over
    all devices. Those that the analytic model puts beyond the memory are passed over, unless all are.
    """
    limit = hardware.chip.memory_bytes * (1.0 if hardware.is_tpu else GPU_SHARE)
    tries, smallest = 0, None
    for fields in _settings(config, hardware, devices):
        if tries == _TRIES:
            return None
        changed = with_fields(config, fields)
        try:
            stage = _demanding_stage(changed, devices)
        except UserError:  # finetuning's batch cannot be cut so
            continue
        estimate = sum(stage.parts.values())
        if smallest is None or estimate < smallest[0]:
            smallest = (estimate, fields, changed, stage)
        if estimate > limit:
            continue
        fit = _fit(changed, hardware, stage)
        if fit.fits:
            return fields, fit
        tries, limit = tries + 1, 0.8 * estimate  # a little less would hardly do
        say(f"does not fit either: {fields_text(fields)}")
    if smallest is not None and tries == 0 and hardware.is_tpu:
        _, fields, changed, stage = smallest
        fit = _fit(changed, hardware, stage)
        if fit.fits:
            return fields, fit
    return None


def with_fields(config: Config, fields: dict[str, Any]) -> Config:
    """The config with some fields, by dotted path, set to other values."""
    values = config.to_dict()
    for path, value in fields.items():
        section, field = path.split(".")
        values[section][field] = value
    return Config(values)


def fields_text(fields: dict[str, Any]) -> str:
    """Fields as they are set on the command line."""

    def text(value: Any) -> str:
        return f"'({','.join(map(str, value))})'" if isinstance(value, tuple) else str(value)

    return " ".join(f"--config.{path}={text(value)}" for path, value in fields.items())


@dataclasses.dataclass(frozen=True)
class _Stage:
    name: str
    rules: Config
    mesh: Mesh
    parts: dict[str, int]


def _demanding_stage(config: Config, devices: Sequence[Any]) -> _Stage:
    shape = model_shape(config)
    found = []
    for name, rules in stages(config).items():
        mesh = make_mesh(rules.mesh, devices)
        try:
            check_batch(mesh, rules.global_batch_size, rules.microbatches)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        found.append(_Stage(name, rules, mesh, estimate_memory(shape, rules, mesh)))
    return max(found, key=lambda stage: sum(stage.parts.values()))


def _fit(config: Config, hardware: Hardware, stage: _Stage) -> Fit:
    shape = model_shape(config)
    limit = hardware.chip.memory_bytes
    needed: int | None
    compiled, fits = None, True
    if hardware.is_tpu:
        try:
            compiled = compile_step(shape, stage.rules, config.seed, stage.mesh)
            needed = compiled.peak_bytes
        except DoesNotFit as error:
            fits, needed, limit = False, error.needed_bytes, error.limit_bytes or limit
    else:
        needed, limit = sum(stage.parts.values()), int(GPU_SHARE * limit)
        fits = needed <= limit
    return Fit(
        stage=stage.name,
        method="compiled" if hardware.is_tpu else "analytic",
        fits=fits,
        needed_bytes=needed,
        limit_bytes=limit,
        mesh=dict(stage.mesh.shape),
        microbatches=stage.rules.microbatches,
        rows=rows_per_device(stage.rules, stage.mesh),
        remat=shape.remat,
        parts=stage.parts,
        compiled=compiled,
    )


def _settings(config: Config, hardware: Hardware, devices: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Fields to change, in the order of preference."""
    training, remat = config.training, config.model.remat
    meshes = [tuple(training.mesh)]
    everywhere = (hardware.slices, -1, 1)
    if -1 in meshes[0] and everywhere not in meshes:
        meshes.append(everywhere)
    current = {
        "training.mesh": meshes[0],
        "model.remat": remat,
        "training.microbatches": training.microbatches,
        "finetune.microbatches": config.to_dict().get("finetune", {}).get("microbatches"),
    }
    for shape in meshes:
        mesh = make_mesh(shape, devices)
        ways = batch_ways(mesh)
        for policy in _REMAT[_REMAT.index(remat) :]:
            microbatches = training.microbatches
            while training.global_batch_size % (microbatches * ways) == 0:
                rows = training.global_batch_size // (microbatches * ways)
                fields = {
                    "training.mesh": shape,
                    "model.remat": policy,
                    "training.microbatches": microbatches,
                    **_finetuning_microbatches(config, ways, rows),
                }
                if changed := {path: value for path, value in fields.items() if current[path] != value}:
                    yield changed
                microbatches *= 2


def _finetuning_microbatches(config: Config, ways: int, rows: int) -> dict[str, int]:
    """The fewest microbatches of finetuning with at most so many rows a device, where it has such a field."""
    values = config.to_dict().get("finetune", {})
    if "microbatches" not in values:
        return {}
    batch = config.finetune.over(config.training).global_batch_size
    for microbatches in range(values["microbatches"], batch + 1):
        if batch % (microbatches * ways) == 0 and batch // (microbatches * ways) <= rows:
            return {"finetune.microbatches": microbatches}
    return {}
