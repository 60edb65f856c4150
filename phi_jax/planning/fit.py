"""Does a step fit in a device's memory, and if not, in how many microbatches would it?

The real train step is compiled ahead of time, for devices that need not be here; for GPUs only where jax's CUDA plugin
is, else memory is estimated.
"""

import contextlib
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_sharding, batch_ways, make_mesh
from phi_jax.planning.bound import step_bound
from phi_jax.planning.compiled import Program, attention_kernels, exchanges
from phi_jax.planning.hardware import Hardware, parse_hardware, topology_devices
from phi_jax.planning.memory import estimate_memory, rows_per_device
from phi_jax.planning.plan import PAPER_DROPOUT, Duration, Fit, Plan
from phi_jax.store.artifact import Json
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.rules import check_batch, model_shape, rules_of
from phi_jax.training.step import abstract_state, make_train_step

# A step is compiled where the estimate, which is right to a quarter, says that it could fit.
_COULD_FIT = 1.25


def make_plan(config: Json, hardware: str, mfu: float, compiles: bool) -> Json:
    """A Plan as JSON has it; runs in a process of its own. compiles: whether the compiler for the hardware is here.

    Raises UserError where the mesh, the batch and the model do not divide each other.
    """
    chosen, found = Config(config), parse_hardware(hardware)
    if compiles:
        devices = topology_devices(found)
        _pretend_cudnn()
    else:  # pretended ones: only their number matters, to lay the arrays out on them
        jax.config.update("jax_num_cpu_devices", found.devices)
        devices = jax.devices()
    shape, durations = model_shape(chosen), []
    flops = training_flops_per_token(shape)
    used = {name: getattr(chosen.models, name).rules for name in chosen.models.to_dict()}
    # Sections of rules; "training" first, the others laid over it.
    sections = {"training": chosen.training} | {rules: rules_of(chosen, name) for name, rules in used.items()}
    fits = {name: _fit_of(name, rules, shape, found, devices) for name, rules in sections.items()}
    for name, section in used.items():
        rules, fit = sections[section], fits[section].fitting or fits[section]
        tokens = rules.steps * rules.global_batch_size * shape.max_seq_len
        seconds = tokens * flops / (found.devices * found.flops(mfu))
        each = (seconds, *(rules.steps * bound.seconds for bound in (fit.bound, fit.dropout_bound)))
        durations.append(Duration(name, rules.steps, tokens, *(value / 3600 for value in each)))
    plan = Plan(
        hardware=found,
        mfu=mfu,
        durations=durations,
        sections=list(fits.values()),
        parameters=num_params(shape),
        model=f"attention {shape.attention}, {shape.compute_dtype}, remat {shape.remat}",
        flops_per_token=flops,
        compiles=compiles,
    )
    return dataclasses.asdict(plan)


def _fit_of(name: str, rules: Config, shape: PhiConfig, hardware: Hardware, devices: list[Any]) -> Fit:
    """How a step under a section of rules fits; where it does not, also with the fewest microbatches that fit."""
    mesh = make_mesh(rules.mesh, devices)
    check_batch(rules, batch_ways(mesh), f"config.{name}")
    found = _tried(name, rules, shape, hardware, mesh)
    most = rules.global_batch_size // batch_ways(mesh)  # with one sequence a device in each
    for count in () if found.fits else range(rules.microbatches + 1, most + 1):
        if most % count == 0:
            tried = _tried(name, Config({"microbatches": count}).over(rules), shape, hardware, mesh)
            if tried.fits:
                return dataclasses.replace(found, fitting=tried)
    return found


def _tried(name: str, rules: Config, shape: PhiConfig, hardware: Hardware, mesh: Mesh) -> Fit:
    parts, limit, program = estimate_memory(shape, rules, mesh), hardware.usable_bytes, None
    with_dropout = dataclasses.replace(shape, attention="xla", attention_dropout=PAPER_DROPOUT, remat="full")
    needed = sum(parts.values())
    if mesh.devices.flat[0].platform != "cpu" and needed <= _COULD_FIT * limit:
        program = _compiled(shape, rules, mesh)
        needed = max(program.memory.values(), default=needed)
    return Fit(
        rules=name,
        fits=needed <= limit and (program is None or bool(program.memory)),
        needed_bytes=needed,
        limit_bytes=limit,
        mesh=dict(mesh.shape),
        microbatches=rules.microbatches,
        rows=rows_per_device(rules, mesh),
        parts=parts,
        program=program,
        bound=step_bound(shape, rules, mesh, hardware),
        dropout_bound=step_bound(with_dropout, rules, mesh, hardware),
    )


def _compiled(shape: PhiConfig, rules: Config, mesh: Mesh) -> Program:
    begin, on_gpu, memory, text = time.monotonic(), mesh.devices.flat[0].platform == "gpu", {}, ""
    # Who multiplies matrices on a GPU is chosen there, by trials that need it: the step is compiled with either.
    for who in ("Triton", "cuBLAS") if on_gpu else ("XLA",):
        options = {"xla_gpu_enable_triton_gemm": who == "Triton"} if on_gpu else None
        step = compile_step(shape, rules, mesh, options)
        if step is not None:
            used, text = step.memory_analysis(), step.as_text()
            # A GPU's compiler leaves temporaries out of its peak; what is donated is argument and output at once.
            whole = used.argument_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes
            memory[who] = whole + used.temp_size_in_bytes if on_gpu else used.peak_memory_in_bytes
    seconds, exchanged = round(time.monotonic() - begin, 1), {}
    with contextlib.suppress(LookupError):  # of another form of program than those that were read
        exchanged = exchanges(text, mesh.size) if text else {}
    return Program(seconds, memory, exchanged, attention_kernels(text))


def compile_step(shape: PhiConfig, rules: Config, mesh: Mesh, options: Json | None = None) -> Any:
    """A step, compiled with these compiler options, or None where it fits in no way; allocates nothing there.

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
        return step.lower(state, tokens_BxT1).compile(options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise


def _pretend_cudnn() -> None:
    """Tracing asks for cuDNN's version, and there is none here. This process does nothing but compile."""
    from jax._src.cudnn import fused_attention_stablehlo

    fused_attention_stablehlo.check_cudnn_version = lambda: 91_000
