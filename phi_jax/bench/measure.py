"""Our train step on random tokens: the step that training runs, without its data, checkpoints and log files."""

from __future__ import annotations

from typing import Any

import jax
from jax import monitoring

from phi_jax.bench.case import BATCHES, OPTIMIZER, Case, random_batches
from phi_jax.bench.child import serve
from phi_jax.bench.surroundings import surroundings
from phi_jax.bench.timing import rates, time_steps
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.chips import chip_of
from phi_jax.parallel.processes import keep_freed_memory
from phi_jax.parallel.mesh import batch_sharding, check_batch, make_mesh
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.step import init_state, make_train_step, state_shardings


def measure(case: Case) -> dict[str, Any]:
    """{"surroundings", "case", "figures"} of `case`, in this process. Figures beside those of `time_steps`:

    - tokens_per_second, _p10, _p90.
    - mfu_full_attention, mfu_causal_attention: model FLOPs over the chips' bfloat16 peak; None for a chip that
      parallel/chips.py does not know, and for float32, which has another peak.
    - peak_memory_bytes of the fullest device, and peak_memory_source: the allocator, or else the compiler.
    - compile_seconds (trace, lowering and XLA), compiles of the step, compiled_from_cache (XLA's part was not run).
    - device_kind, platform, devices, mesh, parameters, tokens_per_step, flops_per_token_{full,causal}_attention.

    Raises UserError for a case that cannot be computed or does not fit, RuntimeError if the step was compiled more
    than once, ArithmeticError for a loss that is not finite.
    """
    keep_freed_memory()
    if case.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", case.cpu_devices)
    try:
        figures = _figures(case, PhiConfig(**case.model))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"bench train {case.name}: out of memory on the {jax.devices()[0].device_kind} with --microbatch "
            f"{case.microbatch}; take a smaller one, or --remat dots or full"
        ) from None
    return {"surroundings": surroundings(), "case": {**vars(case), "mesh": figures["mesh"]}, "figures": figures}


def _figures(case: Case, config: PhiConfig) -> dict[str, Any]:
    devices = jax.devices()
    mesh = make_mesh(case.mesh or (len(devices), 1, 1))
    check_batch(mesh, case.batch_size, case.microbatches)
    rules = Config({**OPTIMIZER, "microbatches": case.microbatches, "loss_chunk": case.loss_chunk, "skip_spike": 0.0})
    optimizer = make_optimizer(rules)
    step: Any = make_train_step(config, optimizer, mesh, rules, seed=0)
    shardings = state_shardings(config, optimizer, mesh)
    state = jax.jit(lambda: init_state(config, optimizer, 0), out_shardings=shardings)()
    batches = random_batches(case)

    def on_device(i: int) -> jax.Array:
        return jax.device_put(batches[i % BATCHES], batch_sharding(mesh))

    compiles = _Compiles(step.__name__)
    # The calls below find this executable and do not compile again: `compiles` proves it.
    compiled = step.lower(state, on_device(0)).compile()

    def dispatch(i: int) -> jax.Array:
        nonlocal state
        state, figures = step(state, on_device(i))
        return figures["loss"]

    times = time_steps(dispatch, float, case.steps)
    if compiles.count != 1:
        raise RuntimeError(f"bench train {case.name}: the step was compiled {compiles.count} times instead of once")
    speed = rates(times, case.tokens_per_step)
    return {
        "device_kind": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "mesh": list(mesh.devices.shape),
        "parameters": num_params(config),
        "tokens_per_step": case.tokens_per_step,
        **speed,
        **times,
        **utilisation(config, speed["tokens_per_second"], devices[0].device_kind, len(devices)),
        **_peak_memory(devices, compiled),
        "compile_seconds": compiles.seconds,
        "compiles": compiles.count,
        "compiled_from_cache": compiles.from_cache,
    }


def utilisation(config: PhiConfig, tokens_per_second: float, device_kind: str, devices: int) -> dict[str, float | None]:
    """flops_per_token and mfu, each _full_attention and _causal_attention; see `measure`."""
    chip = chip_of(device_kind) if config.compute_dtype == "bfloat16" else None
    figures: dict[str, float | None] = {}
    for causal, convention in ((False, "full_attention"), (True, "causal_attention")):
        flops = training_flops_per_token(config, causal=causal)
        figures[f"flops_per_token_{convention}"] = flops
        figures[f"mfu_{convention}"] = tokens_per_second * flops / (chip.peak_flops * devices) if chip else None
    return figures


class _Compiles:
    """Counts what jax reports of compiling one jitted function, from its construction on."""

    def __init__(self, function: str) -> None:
        self.count, self.seconds, self.from_cache = 0, 0.0, False
        self._names = (function, f"jit({function})")
        monitoring.register_event_duration_secs_listener(self._on_duration)
        monitoring.register_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **facts: str | int) -> None:
        if event.startswith("/jax/core/compile/") and facts.get("fun_name") in self._names:
            self.seconds += duration_secs
            self.count += event.endswith("/backend_compile_duration")

    def _on_event(self, event: str, **_: Any) -> None:
        # No function is named here, but nothing else is compiled between construction and the step's own event.
        if event == "/jax/compilation_cache/cache_hits" and not self.count:
            self.from_cache = True


def _peak_memory(devices: list[jax.Device], compiled: jax.stages.Compiled) -> dict[str, Any]:
    peaks = [stats["peak_bytes_in_use"] for d in devices if (stats := d.memory_stats())]
    if peaks:
        return {"peak_memory_bytes": max(peaks), "peak_memory_source": "device.memory_stats() of the fullest device"}
    m: Any = compiled.memory_analysis()
    size = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    return {"peak_memory_bytes": size, "peak_memory_source": "compiled.memory_analysis(), one device"}


if __name__ == "__main__":
    serve(measure)
