"""Does a step fit in a device's memory, and if not, in how many microbatches would it?

For TPUs the real train step is compiled ahead of time, for devices that need not be here; for GPUs memory is estimated.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_sharding, batch_ways, check_batch, make_mesh
from phi_jax.planning.hardware import Hardware
from phi_jax.planning.memory import estimate_memory, rows_per_device
from phi_jax.training.loop import model_config
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.step import init_state, make_train_step, state_shardings

GPU_SHARE = 0.9  # of a GPU's memory that XLA gets: XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 (its own default is 0.75)


class DoesNotFit(Exception):
    """The compiler found no way to run the step in a device's memory.

    needed_bytes (at least so much) and limit_bytes (what programs may take) are what its message says, None if nothing.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        size = r"\(?([\d.]+)([KMGT])\)?"
        found = re.search(rf"(?:Used|temporaries) {size} (?:of|exceeds available HBM) {size}", message)
        units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
        self.needed_bytes = int(float(found[1]) * units[found[2]]) if found else None
        self.limit_bytes = int(float(found[3]) * units[found[4]]) if found else None


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the step of the more demanding section of rules needs on one device."""

    rules: str  # the config's section: "training", "finetune"
    compiled: bool  # for these devices; else estimated
    fits: bool
    needed_bytes: int | None  # at the peak of a step, or at least where the compiler gave up; None: it didn't say
    limit_bytes: int  # what a step may take
    mesh: dict[str, int]
    microbatches: int
    rows: int  # sequences of a microbatch on one device
    parts: dict[str, int]  # estimated bytes, by what they hold
    seconds: float  # of compiling


@dataclasses.dataclass(frozen=True)
class _Step:
    section: str
    rules: Config
    mesh: Mesh
    parts: dict[str, int]


def model_shape(config: Config) -> PhiConfig:
    """The model that config.model and config.tokenize describe."""
    return model_config(config.model, vocab_size=config.tokenize.vocab_size, seq_len=config.tokenize.seq_len)


def rule_sections(config: Config) -> dict[str, Config]:
    """The sections that the models of config.models are trained by: "training" first, the others laid over it."""
    chosen = (getattr(config.models, name).rules for name in config.models.to_dict())
    others = (name for name in dict.fromkeys(chosen) if name != "training")
    return {"training": config.training, **{n: getattr(config, n).over(config.training) for n in others}}


def check_fit(config: Config, hardware: Hardware, devices: Sequence[Any]) -> Fit:
    """Compiles the step that the estimate gives most memory, for a TPU; for GPUs, only estimates.

    devices: jax devices, those of the topology, or as many pretended ones as there are GPUs. Raises UserError where
    the mesh, the batch and the model do not divide each other.
    """
    shape = model_shape(config)
    return _fit(shape, _largest(shape, rule_sections(config), devices), config.seed, hardware)


def fitting_microbatches(
    config: Config, hardware: Hardware, devices: Sequence[Any], fit: Fit
) -> tuple[dict[str, int], Fit] | None:
    """(section -> microbatches, what is then needed), where more microbatches make the step fit; None where none do.

    Sequences a device are halved until it fits. Those that the estimate puts beyond the memory are not compiled, but
    for the last one.
    """
    shape, sections, rows = model_shape(config), rule_sections(config), fit.rows
    while rows > 1:
        rows //= 2
        more = {name: _microbatches(rules, devices, rows) for name, rules in sections.items()}
        changed = {n: Config({"microbatches": more[n]}).over(rules) for n, rules in sections.items()}
        step = _largest(shape, changed, devices)
        if sum(step.parts.values()) <= hardware.chip.memory_bytes or rows == 1:
            found = _fit(shape, step, config.seed, hardware)
            if found.fits:
                return {n: count for n, count in more.items() if count != sections[n].microbatches}, found
    return None


def _microbatches(rules: Config, devices: Sequence[Any], rows: int) -> int:
    """The fewest, and no fewer than the rules have, with at most so many sequences a device."""
    batch, ways = rules.global_batch_size, batch_ways(make_mesh(rules.mesh, devices))
    counts = range(rules.microbatches, batch // ways + 1)
    return next(n for n in counts if batch % (n * ways) == 0 and batch // (n * ways) <= rows)


def _largest(shape: PhiConfig, sections: Mapping[str, Config], devices: Sequence[Any]) -> _Step:
    steps = []
    for name, rules in sections.items():
        mesh = make_mesh(rules.mesh, devices)
        try:
            check_batch(mesh, rules.global_batch_size, rules.microbatches)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        steps.append(_Step(name, rules, mesh, estimate_memory(shape, rules, mesh)))
    return max(steps, key=lambda step: sum(step.parts.values()))


def _fit(shape: PhiConfig, step: _Step, seed: int, hardware: Hardware) -> Fit:
    limit, seconds = hardware.chip.memory_bytes, 0.0
    needed: int | None
    if hardware.is_tpu:
        try:
            needed, seconds = compile_step(shape, step.rules, seed, step.mesh)
            fits = True
        except DoesNotFit as error:
            fits, needed, limit = False, error.needed_bytes, error.limit_bytes or limit
    else:
        needed, limit = sum(step.parts.values()), int(GPU_SHARE * limit)
        fits = needed <= limit
    return Fit(
        rules=step.section,
        compiled=hardware.is_tpu,
        fits=fits,
        needed_bytes=needed,
        limit_bytes=limit,
        mesh=dict(step.mesh.shape),
        microbatches=step.rules.microbatches,
        rows=rows_per_device(step.rules, step.mesh),
        parts=step.parts,
        seconds=seconds,
    )


def compile_step(shape: PhiConfig, rules: Config, seed: int, mesh: Mesh) -> tuple[int, float]:
    """(bytes of one device at the peak of a step, seconds of compiling); allocates nothing on the mesh's devices.

    Raises DoesNotFit, and UserError as make_train_step does.
    """
    optimizer = make_optimizer(rules)
    step = make_train_step(
        shape, optimizer, mesh,
        microbatches=rules.microbatches, loss_chunk=rules.loss_chunk, seed=seed,
        document_end=0 if rules.document_masks else None,  # any token: the program is the same
        skip_spike=rules.skip_spike,
    )  # fmt: skip
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(lambda: init_state(shape, optimizer, seed)),
        state_shardings(shape, optimizer, mesh),
    )
    tokens_BxT1 = jax.ShapeDtypeStruct(
        (rules.global_batch_size, shape.max_seq_len + 1), jnp.int32, sharding=batch_sharding(mesh)
    )
    begin = time.monotonic()
    try:
        memory = step.lower(state, tokens_BxT1).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(" ".join(str(error).split())) from None
    assert memory is not None
    # The CPU's compiler leaves temporaries out of its peak; a donated state is not counted twice.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes if on_cpu else memory.peak_memory_in_bytes
    return peak, round(time.monotonic() - begin, 1)
