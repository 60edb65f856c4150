"""`phi-jax bench train`: how fast a config's training step is, on random tokens through the step that training runs.

No data, no checkpoints.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from phi_jax.bench.result import publish
from phi_jax.config import Config, load
from phi_jax.errors import UserError
from phi_jax.store.artifact import Json

WARMUP_STEPS = 3  # the first calls allocate and fill caches
BATCHES = 8  # different random ones, used in turn


def run(options: argparse.Namespace, config_arguments: Sequence[str]) -> None:
    """Measures config.model with the rules of config.training, prints the result as JSON and writes it to options.out.

    Raises UserError for options without sense, and as `measure` does.
    """
    if options.steps < 1:
        raise UserError(f"--steps {options.steps}: must be at least 1")
    case = case_of(load(config_arguments))
    publish(lambda: measure(**case, steps=options.steps), options.out)


def case_of(config: Config) -> Json:
    """{"model": fields of PhiConfig, "training": of config.training}, as `measure` wants them."""
    from phi_jax.training.rules import model_shape

    return {"model": dataclasses.asdict(model_shape(config)), "training": config.training.to_dict()}


def measure(model: Json, training: Json, steps: int) -> Json:
    """{"case": the arguments, "figures"}, measured in this process. Figures:

    - tokens_per_second and step_seconds, the median; step_seconds_p10, _p90: between the ends of one step and the
      next, with one step in flight as in training.
    - mfu_full_attention, mfu_causal_attention: model FLOPs over the chips' bfloat16 peak, attention counted by either
      convention (model/flops.py); None for a chip that parallel/chips.py does not know, and for float32, which has
      another peak.
    - peak_memory_bytes of a device, by the compiler; measured_peak_memory_bytes, what its allocator has given out at
      most in this process, None where it does not say (CPU).
    - compile_seconds (trace, lowering and XLA), first_loss, parameters, device_kind, devices, tokens_per_step.

    Raises UserError for a case that cannot be computed or does not fit.
    """
    import jax

    from phi_jax.model.phi import PhiConfig
    from phi_jax.parallel.processes import keep_freed_memory, set_cpu_devices

    keep_freed_memory()
    set_cpu_devices(training["cpu_devices"])
    case = {"model": model, "training": training, "steps": steps}
    try:
        return {"case": case, "figures": _figures(PhiConfig(**model), Config(training), steps)}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"bench train: out of memory on the {jax.devices()[0].device_kind}; take a smaller "
            "global_batch_size, more microbatches, or remat dots or full"
        ) from None


def _figures(config: Any, rules: Config, steps: int) -> Json:
    import jax
    import numpy as np

    from phi_jax.model.flops import num_params
    from phi_jax.parallel.mesh import batch_sharding, batch_ways, make_mesh
    from phi_jax.training.optimizer import make_optimizer
    from phi_jax.training.rules import check_batch
    from phi_jax.training.step import fresh_state, make_train_step

    device, devices = jax.devices()[0], jax.device_count()
    mesh = make_mesh(tuple(rules.mesh))
    optimizer = make_optimizer(rules, mesh)
    check_batch(rules, batch_ways(mesh))
    state = fresh_state(config, optimizer, mesh, 0)
    batches = random_batches(rules.global_batch_size, config.max_seq_len, config.vocab_size)

    def batch(i: int) -> jax.Array:
        return jax.device_put(batches[i % BATCHES], batch_sharding(mesh))

    start = time.perf_counter()
    step = make_train_step(config, optimizer, mesh, rules, seed=0).lower(state, batch(0)).compile()
    ends, losses = [time.perf_counter()], []
    state, figures = step(state, batch(0))
    for i in range(1, WARMUP_STEPS + steps + 1):
        previous = figures["loss"]
        state, figures = step(state, batch(i))
        losses.append(float(previous))  # as in training, read after the next step was dispatched
        ends.append(time.perf_counter())
    memory: Any = step.memory_analysis()
    allocator: Any = jax.local_devices()[0].memory_stats() or {}
    low, median, high = np.quantile(np.diff(ends)[WARMUP_STEPS:], [0.1, 0.5, 0.9]).tolist()
    tokens = rules.global_batch_size * config.max_seq_len
    return {
        "tokens_per_second": tokens / median,
        "step_seconds": median,
        "step_seconds_p10": low,
        "step_seconds_p90": high,
        "mfu_full_attention": utilisation(config, tokens / median, device.device_kind, devices),
        "mfu_causal_attention": utilisation(config, tokens / median, device.device_kind, devices, causal=True),
        "peak_memory_bytes": memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "measured_peak_memory_bytes": allocator.get("peak_bytes_in_use"),
        "compile_seconds": ends[0] - start,
        "first_loss": losses[0],
        "parameters": num_params(config),
        "device_kind": device.device_kind,
        "devices": devices,
        "tokens_per_step": tokens,
    }


def random_batches(batch_size: int, seq_len: int, vocab_size: int) -> list[Any]:
    """BATCHES token batches [B, T + 1] int32, the same for every implementation."""
    import numpy as np

    random, shape = np.random.default_rng(0), (batch_size, seq_len + 1)
    return [random.integers(0, vocab_size, shape, dtype=np.int32) for _ in range(BATCHES)]


def utilisation(
    config: Any, tokens_per_second: float, device_kind: str, devices: int, *, causal: bool = False
) -> float | None:
    """Model FLOPs over the chips' bfloat16 peak; see `measure`."""
    from phi_jax.model.flops import training_flops_per_token
    from phi_jax.parallel.chips import chip_of

    chip = chip_of(device_kind) if config.compute_dtype == "bfloat16" else None
    flops = tokens_per_second * training_flops_per_token(config, causal=causal)
    return flops / (chip.peak_flops * devices) if chip else None
