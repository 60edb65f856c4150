"""How fast a step and the sampler are, and what the device could do at most."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from case import Skipped, case, device, estimate, fits, in_setting, kernel_here, settings, shape_of

from phi_jax.bench.train_speed import measure
from phi_jax.errors import UserError

Figures = dict[str, Any]


def step(context: Figures, config: str) -> Iterator[Figures]:
    """A config's training step in the best of the settings that fit; where that runs out of memory, in the next."""
    whole, failed = case(config, context["shapes"], kernel_here()), list[list[Any]]()
    for remat, rows in settings(whole):
        chosen = in_setting(whole, remat, rows)
        yield {"tried": [*failed, [remat, rows]]}
        try:
            figures = _measured(context, chosen, 20)
        except UserError as error:
            if "out of memory" not in str(error):
                raise
            failed.append([remat, rows])
            continue
        yield {"out_of_memory": failed, **figures, "case": chosen}
        return
    raise UserError(f"{config}: out of memory in every setting that should fit: {failed}")


def remat_rows(context: Figures, remat: str, rows: int) -> Iterator[Figures]:
    """phi-1's step in one setting."""
    chosen = in_setting(case("phi_1", context["shapes"], kernel_here()), remat, rows)
    if not fits(chosen):
        has = device()["memory_bytes"] / 2**30
        raise Skipped(f"needs {estimate(chosen) / 2**30:.0f} GiB a device by the estimate, and there are {has:.0f}")
    yield _measured(context, chosen, 10)


def _measured(context: Figures, chosen: Figures, steps: int) -> Figures:
    figures = measure(**chosen, steps=steps if context["shapes"] == "phi_1" else 3)["figures"]
    return {
        "kernel": chosen["model"]["attention"],
        "remat": chosen["model"]["remat"],
        "rows_a_device": chosen["training"]["global_batch_size"] // figures["devices"],
        "estimated_peak_memory_bytes": estimate(chosen),
        **figures,
    }


def ceilings(context: Figures) -> Iterator[Figures]:
    """TFLOP/s of phi-1's products in bfloat16 on one device, as shares of the chip's peak, and GB/s of its memory."""
    import jax
    import jax.numpy as jnp

    from phi_jax.parallel.chips import chip_of

    shape = shape_of(case("phi_1", context["shapes"], "xla"))
    chip = chip_of(jax.local_devices()[0].device_kind)
    n, d, f = 8 * shape.max_seq_len, shape.hidden_size, shape.intermediate_size
    # (M, K, N) of an M x K by K x N product, over the tokens of 8 rows; the head's are of one chunk of the loss.
    products = {
        "q": (n, d, d), "fc1": (n, d, f), "fc2": (n, f, d), "fc1_weight_gradient": (d, n, f),
        "head": (n // 8, d, shape.vocab_size),
    }  # fmt: skip
    found: Figures = {"products": {}}
    for name, (m, k, p) in products.items():
        left, right = (jax.random.normal(jax.random.key(0), size, jnp.bfloat16) for size in ((m, k), (k, p)))
        rate = 2 * m * k * p / _seconds(jax.jit(jnp.dot), left, right)
        share = rate / chip.peak_flops if chip else None
        found["products"][name] = {"shape": [m, k, p], "tflops": rate / 1e12, "share_of_peak": share}
        yield found
    yield {**found, "gigabytes_per_second": bandwidth(context) / 1e9}


def bandwidth(context: Figures) -> float:
    """Bytes a second that one device's memory gives and takes, at best: each value is read and written once."""
    import jax
    import jax.numpy as jnp

    values = jnp.zeros(2**30 if context["shapes"] == "phi_1" else 2**22, jnp.bfloat16)
    return 2 * values.nbytes / _seconds(jax.jit(lambda x: x + 1), values)


def _seconds(function: Any, *arguments: Any, turns: int = 20) -> float:
    """Of one call, on a device that always has the next one waiting."""
    function(*arguments).block_until_ready()
    start = time.perf_counter()
    for _ in range(turns):
        last = function(*arguments)
    last.block_until_ready()
    return (time.perf_counter() - start) / turns


def sampler(context: Figures, slots: int) -> Iterator[Figures]:
    """The sampler's tokens a second beside the bound: every slot busy, and the weights and the keys and values before
    each token read once a token, at the bandwidth that was measured.
    """
    import jax

    from phi_jax.bench import sample_speed
    from phi_jax.model.flops import num_params

    model = case("phi_1", context["shapes"], "xla")["model"]
    work = {**sample_speed.work_of(model), "samples_per_problem": max(20, slots // 2)}  # every slot has its turn, twice
    figures: Figures = {**work, **sample_speed.measure(model, work, slots)}
    yield figures
    shape = shape_of({"model": model})
    size = shape.dtype.dtype.itemsize
    weights = size * (num_params(shape) - shape.vocab_size * shape.hidden_size)  # an embedding's rows are few
    lengths = sample_speed.workload(shape.vocab_size, work)[1]
    context_tokens = work["prompt_tokens"] + sum(map(sum, lengths)) / sum(map(len, lengths)) / 2
    cache = 2 * size * shape.num_layers * shape.num_heads * shape.head_dim * context_tokens
    bound = jax.local_device_count() * slots * bandwidth(context) / (weights + slots * cache)
    yield {**figures, "bound_tokens_per_second": bound, "share_of_bound": figures["tokens_per_second"] / bound}
