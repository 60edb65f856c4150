"""Does a step fit in a device's memory, and if not, in how many microbatches would it?

For TPUs the real train step is compiled ahead of time, for devices that need not be here; for GPUs memory is estimated.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_sharding, batch_ways, make_mesh
from phi_jax.planning.hardware import Hardware, parse_hardware, topology_devices
from phi_jax.planning.memory import estimate_memory, rows_per_device
from phi_jax.planning.plan import Duration, Fit, Plan
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.rules import check_batch, model_shape, rules_of
from phi_jax.training.step import abstract_state, make_train_step

# A step is compiled where the estimate, which is right to a quarter, says that it could fit.
_COULD_FIT = 1.25


def make_plan(config: dict[str, Any], hardware: str, mfu: float) -> dict[str, Any]:
    """A Plan as JSON has it; runs in a process of its own.

    Raises UserError where the mesh, the batch and the model do not divide each other.
    """
    chosen, found = Config(config), parse_hardware(hardware)
    if found.is_tpu:
        devices = topology_devices(found)
    else:  # pretended ones: only their number matters, to lay the arrays out on them
        jax.config.update("jax_num_cpu_devices", found.devices)
        devices = jax.devices()
    shape, durations = model_shape(chosen), []
    flops = training_flops_per_token(shape)
    sections = {"training": chosen.training}  # of rules; "training" first, the others laid over it
    for name in chosen.models.to_dict():
        rules = sections[getattr(chosen.models, name).rules] = rules_of(chosen, name)
        tokens = rules.steps * rules.global_batch_size * shape.max_seq_len
        seconds = tokens * flops / (found.devices * found.chip.peak_flops * mfu)
        durations.append(Duration(name, rules.steps, tokens, seconds / 3600))
    plan = Plan(
        hardware=found,
        mfu=mfu,
        durations=durations,
        sections=[_fit_of(name, rules, shape, found, devices) for name, rules in sections.items()],
        parameters=num_params(shape),
        model=f"attention {shape.attention}, {shape.compute_dtype}, remat {shape.remat}",
        flops_per_token=flops,
    )
    return dataclasses.asdict(plan)


def _fit_of(name: str, rules: Config, shape: PhiConfig, hardware: Hardware, devices: list[Any]) -> Fit:
    """How a step under a section of rules fits; where it does not, also with the fewest microbatches that fit."""
    mesh = make_mesh(rules.mesh, devices)
    try:
        check_batch(rules, batch_ways(mesh))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    found = _tried(name, rules, shape, hardware, mesh)
    most = rules.global_batch_size // batch_ways(mesh)  # with one sequence a device in each
    for count in () if found.fits else range(rules.microbatches + 1, most + 1):
        if most % count == 0:
            tried = _tried(name, Config({"microbatches": count}).over(rules), shape, hardware, mesh)
            if tried.fits:
                return dataclasses.replace(found, fitting=tried)
    return found


def _tried(name: str, rules: Config, shape: PhiConfig, hardware: Hardware, mesh: Mesh) -> Fit:
    parts, limit = estimate_memory(shape, rules, mesh), hardware.usable_bytes
    needed, seconds = sum(parts.values()), None
    fits = needed <= limit
    if hardware.is_tpu and needed <= _COULD_FIT * limit:
        begin = time.monotonic()
        memory = compile_step(shape, rules, mesh)
        seconds, fits = round(time.monotonic() - begin, 1), memory is not None
        needed = needed if memory is None else memory.peak_memory_in_bytes
    return Fit(
        rules=name,
        fits=fits,
        needed_bytes=needed,
        limit_bytes=limit,
        mesh=dict(mesh.shape),
        microbatches=rules.microbatches,
        rows=rows_per_device(rules, mesh),
        parts=parts,
        seconds=seconds,
    )


def compile_step(shape: PhiConfig, rules: Config, mesh: Mesh) -> Any:
    """XLA's memory analysis of a step on one device, or None where it fits in no way; allocates nothing there.

    Raises UserError as make_train_step does.
    """
    optimizer = make_optimizer(rules, mesh)
    # Any seed, and any token that ends a document: the program is the same.
    step = make_train_step(shape, optimizer, mesh, rules, seed=0, document_end=0 if rules.document_masks else None)
    state = abstract_state(shape, optimizer, mesh)
    tokens_BxT1 = jax.ShapeDtypeStruct(
        (rules.global_batch_size, shape.max_seq_len + 1), jnp.int32, sharding=batch_sharding(mesh)
    )
    try:
        return step.lower(state, tokens_BxT1).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise
