"""Does a step fit in a device's memory, and if not, in how many microbatches would it?

For TPUs the real train step is compiled ahead of time, for devices that need not be here; for GPUs memory is estimated.
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_sharding, check_batch, make_mesh
from phi_jax.planning.hardware import Hardware, parse_hardware, topology_devices
from phi_jax.planning.memory import estimate_memory, rows_per_device
from phi_jax.planning.plan import Duration, Fit
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.rules import model_config, rules_of
from phi_jax.training.step import abstract_state, make_train_step


class DoesNotFit(Exception):
    """The compiler found no way to run the step in a device's memory; `sizes` reads its message."""


def sizes(message: str) -> list[int]:
    """Bytes that a compiler says are needed (at least) and that programs may take; empty where it doesn't say."""
    size = r"\(?([\d.]+)([KMGT])\)?"
    found = re.search(rf"(?:Used|temporaries) {size} (?:of|exceeds available HBM) {size}", message)
    words = found.groups() if found else ()
    return [int(float(words[n]) * 1024 ** (1 + "KMGT".index(words[n + 1]))) for n in range(0, len(words), 2)]


def make_plan(config: dict[str, Any], hardware: str, mfu: float) -> dict[str, Any]:
    """The fields of a Plan, but for hardware and MFU, as JSON has them; runs in a process of its own.

    Raises UserError where the mesh, the batch and the model do not divide each other.
    """
    chosen, found = Config(config), parse_hardware(hardware)
    if found.is_tpu:
        devices = topology_devices(found)
    else:  # pretended ones: only their number matters, to lay the arrays out on them
        jax.config.update("jax_num_cpu_devices", found.devices)
        devices = jax.devices()
    shape, durations = model_shape(chosen), []
    flops = training_flops_per_token(shape, causal=False)
    sections = {"training": chosen.training}  # of rules; "training" first, the others laid over it
    for name in chosen.models.to_dict():
        rules = sections[getattr(chosen.models, name).rules] = rules_of(chosen, name)
        tokens = rules.steps * rules.global_batch_size * shape.max_seq_len
        seconds = tokens * flops / (found.devices * found.chip.peak_flops * mfu)
        durations.append(Duration(name, rules.steps, tokens, seconds / 3600))
    fits = [
        _Section(name, rules, shape, found, make_mesh(rules.mesh, devices)).fit() for name, rules in sections.items()
    ]
    return {
        "durations": [dataclasses.asdict(d) for d in durations],
        "sections": [dataclasses.asdict(fit) for fit in fits],
        "parameters": num_params(shape),
        "model": f"attention {shape.attention}, {shape.compute_dtype}, remat {shape.remat}",
        "flops_per_token": flops,
        "flops_per_token_causal": training_flops_per_token(shape, causal=True),
    }


def model_shape(config: Config) -> PhiConfig:
    """The model that config.model and config.tokenize describe."""
    return model_config(config.model, vocab_size=config.tokenize.vocab_size, seq_len=config.tokenize.seq_len)


@dataclasses.dataclass(frozen=True)
class _Section:
    """One section of rules, and where its steps are to run."""

    name: str
    rules: Config
    shape: PhiConfig
    hardware: Hardware
    mesh: Mesh  # of the topology's devices, or of as many pretended ones as there are GPUs

    def fit(self) -> Fit:
        """How its step fits; where it does not, also with the fewest microbatches that fit."""
        found = self._with(self.rules)
        most = found.microbatches * found.rows  # with one sequence a device in each
        counts = [n for n in range(found.microbatches + 1, most + 1) if most % n == 0]
        for count in () if found.fits else counts:
            rules = Config({"microbatches": count}).over(self.rules)
            estimate = sum(estimate_memory(self.shape, rules, self.mesh).values())
            # What the estimate puts beyond the memory is not compiled, but for the last.
            if estimate <= self.hardware.chip.memory_bytes or count == counts[-1]:
                tried = self._with(rules)
                if tried.fits:
                    return dataclasses.replace(found, fitting=tried)
        return found

    def _with(self, rules: Config) -> Fit:
        try:
            check_batch(self.mesh, rules.global_batch_size, rules.microbatches)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        parts = estimate_memory(self.shape, rules, self.mesh)
        needed: int | None = sum(parts.values())
        limit, seconds = self.hardware.usable_bytes, 0.0
        fits = sum(parts.values()) <= limit
        if self.hardware.is_tpu:
            try:
                needed, seconds = compile_step(self.shape, rules, self.mesh)
                fits = True
            except DoesNotFit as error:
                fits, (needed, limit) = False, sizes(str(error)) or (None, limit)
        return Fit(
            rules=self.name,
            compiled=self.hardware.is_tpu,
            fits=fits,
            needed_bytes=needed,
            limit_bytes=limit,
            mesh=dict(self.mesh.shape),
            microbatches=rules.microbatches,
            rows=rows_per_device(rules, self.mesh),
            parts=parts,
            seconds=seconds,
        )


def compile_step(shape: PhiConfig, rules: Config, mesh: Mesh) -> tuple[int, float]:
    """(bytes of one device at the peak of a step, seconds of compiling); allocates nothing on the mesh's devices.

    Raises DoesNotFit, and UserError as make_train_step does.
    """
    optimizer = make_optimizer(rules)
    # Any seed, and any token that ends a document: the program is the same.
    step = make_train_step(shape, optimizer, mesh, rules, seed=0, document_end=0 if rules.document_masks else None)
    state = abstract_state(shape, optimizer, mesh)
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
