"""The real train step, compiled ahead of time for devices that need not be here."""

from __future__ import annotations

import dataclasses
import re
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_sharding
from phi_jax.planning.collectives import Collective, collectives
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.step import init_state, make_train_step, state_shardings


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
class CompiledStep:
    """Figures of one device."""

    peak_bytes: int
    seconds: float  # of compiling
    collectives: list[Collective]


def compile_step(shape: PhiConfig, rules: Config, seed: int, mesh: Mesh) -> CompiledStep:
    """Compiles one optimizer step for the mesh's devices; allocates nothing on them.

    rules: config.training, or config.finetune over it. Raises DoesNotFit, and UserError as make_train_step does.
    """
    optimizer = make_optimizer(rules)
    step = make_train_step(
        shape, optimizer, mesh, rules, seed=seed,
        document_end=0 if rules.document_masks else None,  # any token: the program is the same
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
        compiled = step.lower(state, tokens_BxT1).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(" ".join(str(error).split())) from None
    seconds = time.monotonic() - begin
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert hlo is not None
    # The CPU's compiler leaves temporaries out of its peak; a donated state is not counted twice.
    peak = memory.peak_memory_in_bytes
    if mesh.devices.flat[0].platform == "cpu":
        peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return CompiledStep(peak, round(seconds, 1), collectives(hlo))
