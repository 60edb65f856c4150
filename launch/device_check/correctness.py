"""What the device computes: attention and the training step, beside float32."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import unittest.mock
from collections.abc import Iterator, Mapping
from typing import Any

from case import case, kernel_here, shape_of

from phi_jax.config import Config
from phi_jax.errors import UserError

Figures = dict[str, Any]
ROWS = 2  # a device
BLIND = "fused kernel that is told of no documents"  # must not pass
# Of an array's differences from the reference: their root mean square, as a share of the array's; the largest, as a
# share of the array's largest, may be twice that. bfloat16 rounds by at most 2^-9, in the mean square by 2^-10.3. A
# kernel rounds probabilities, their gradients and what it returns, and the gradient is built on a rounded output: half
# a dozen roundings add like noise, to 2^-9, and the bound is four times that (splash and xla on a CPU, 2048 positions:
# 2^-8.6). A kernel with a wrong mask, scale or order is off by 2^-2 and more; one blind to documents by 2^-0.4.
BOUND = 2**-7


def correctness(context: Figures) -> Iterator[Figures]:
    """Attention and then a whole step, by the fused kernel and by `xla` in bfloat16, beside `xla` in float32.

    On a CPU, which has no fused kernel, splash runs in Pallas' interpreter. Raises UserError where an error exceeds its
    bound, or where a kernel that takes no notice of documents would have passed.
    """
    interpret = kernel_here() == "xla"
    kernel = "splash" if interpret else kernel_here()
    found: Figures = {"kernel": kernel, "interpreted": interpret, "reference": "xla, float32, products at highest"}
    whole = case("phi_1", context["shapes"], kernel)
    for name, errors_of in (("attention", attention), ("step", step)):
        found[name], wrong = errors_of(whole, interpret)
        yield found
        if wrong:
            raise UserError(f"{name}: {'; '.join(wrong)}")


def attention(whole: Figures, interpret: bool) -> tuple[Figures, list[str]]:
    """Errors of outputs and gradients, for rows of one document and of several; which exceed their bound."""
    import jax
    import jax.numpy as jnp

    from phi_jax.model.attention import attend, causal_mask, segments_of
    from phi_jax.parallel.sharded_attention import sharded_attention

    shape, kernel = shape_of(whole), whole["model"]["attention"]
    mesh, rows, tokens, end = _batch(shape)
    fused: Any = sharded_attention(shape, mesh, interpret=interpret)
    documents = jax.device_put(segments_of(tokens[:, :-1], end), rows)
    size = (len(tokens), shape.max_seq_len, shape.num_heads, shape.head_dim)
    # Rounded to bfloat16 for the reference too: what is measured is the computing.
    drawn = functools.partial(jax.random.normal, jax.random.key(0), (4, *size), jnp.bfloat16)
    inputs = jax.jit(lambda: tuple(drawn()), out_shardings=rows)()

    def xla(q: Any, k: Any, v: Any, segments: Any) -> jax.Array:
        return attend(q, k, v, causal_mask(size[1], segments))

    @functools.partial(jax.jit, static_argnums=0)
    def run(attention: Any, segments: Any, q: Any, k: Any, v: Any, cotangent: Any) -> dict[str, jax.Array]:
        heads, pull = jax.vjp(lambda *qkv: attention(*qkv, segments), q, k, v)
        return dict(zip(("heads", "dq", "dk", "dv"), (heads, *pull(cotangent)), strict=True))

    found: Figures = {}
    for name, segments in (("whole", None), ("documents", documents)):
        with jax.default_matmul_precision("highest"):
            expected = run(xla, segments, *(x.astype(jnp.float32) for x in inputs))
        tried = {kernel: (fused, segments), "xla": (xla, segments), BLIND: (fused, None)}
        if segments is None:
            del tried[BLIND]
        found[name] = {label: _errors(run(*given, *inputs), expected) for label, given in tried.items()}
    bounds = dict.fromkeys(expected, BOUND)
    return found, [f"{name}, {line}" for name, errors in found.items() for line in _wrong(errors, bounds)]


def step(whole: Figures, interpret: bool) -> tuple[Figures, list[str]]:
    """Loss and errors of each parameter's gradient, of two blocks of phi-1's width; which exceed their bound.

    The fused kernel's step rounds where that of `xla` does, but for attention: it may be twice as far off, and BOUND.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from flax.traverse_util import flatten_dict

    from phi_jax.training import loss
    from phi_jax.training.step import fresh_state, make_train_step

    # Such weights give attention's logits a standard deviation near 1 at any width, as 0.02 does at phi-1's.
    spread = 0.9 * whole["model"]["hidden_size"] ** -0.5
    shape = shape_of(whole, num_layers=2, residual_dropout=0.0, initializer_range=spread)
    mesh, rows, tokens, end = _batch(shape)
    batch, rules = jax.device_put(tokens, rows), Config({**whole["training"], "skip_spike": 0.0})
    optimizer = optax.sgd(1.0)  # what such a step takes from the weights is their gradient
    start = fresh_state(shape, optimizer, mesh, 0)
    losses = {}

    def gradients(label: str, document_end: int | None, **changes: str) -> dict[str, jax.Array]:
        model = dataclasses.replace(shape, **changes)
        run = make_train_step(model, optimizer, mesh, rules, seed=0, document_end=document_end)
        state, figures = run(jax.tree.map(jnp.copy, start), batch)
        losses[label] = float(figures["loss"])
        return flatten_dict(jax.tree.map(jnp.subtract, start["params"], state["params"]), sep="/")

    with jax.default_matmul_precision("highest"):
        expected = gradients("float32", end, attention="xla", compute_dtype="float32")
    interpreted = functools.partial(loss.sharded_attention, interpret=True)
    tried = {shape.attention: (end, {}), "xla": (end, {"attention": "xla"}), BLIND: (None, {})}
    with unittest.mock.patch.object(loss, "sharded_attention", interpreted) if interpret else contextlib.nullcontext():
        found = {
            label: _errors(gradients(label, ends, **changes), expected) for label, (ends, changes) in tried.items()
        }
    bounds = {path: 2 * e["relative_rms"] + BOUND for path, e in found["xla"].items()}
    return {"losses": losses, **found}, _wrong(found, bounds)


def _errors(got: Any, expected: Any) -> Figures:
    """Of each array: the largest difference, that and the differences' root mean square as shares of the expected."""
    import jax
    import jax.numpy as jnp

    def of(a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
        off = jnp.abs(a.astype(jnp.float32) - b)
        rms = jnp.sqrt(jnp.square(off).mean() / jnp.square(b).mean())
        return {"largest": off.max(), "relative_largest": off.max() / jnp.abs(b).max(), "relative_rms": rms}

    each = jax.jit(lambda got, expected: {name: of(got[name], expected[name]) for name in expected})
    return jax.tree.map(float, each(got, expected))


def _wrong(found: Figures, bounds: Mapping[str, float]) -> list[str]:
    """What speaks against the device, or against the check."""
    wrong = {
        label: [
            f"{label}: {name} is off by {e['relative_rms']:.2g}, at most {e['relative_largest']:.2g}"
            for name, e in errors.items()
            if not (e["relative_rms"] <= bounds[name] and e["relative_largest"] <= 2 * bounds[name])
        ]
        for label, errors in found.items()
    }
    blind = wrong.pop(BLIND, ["not tried"])
    return [line for lines in wrong.values() for line in lines] + ([] if blind else [f"{BLIND}: passes"])


def _batch(shape: Any) -> tuple[Any, Any, Any, int]:
    """(mesh, sharding of rows over it, random tokens int32 [B, T + 1], the end-of-text token).

    Each row holds several documents: some are one token long, some edges lie on a kernel's block's, some beside it.
    """
    import numpy as np

    from phi_jax.parallel.mesh import batch_sharding, make_mesh

    mesh, length, end = make_mesh((1, -1, 1)), shape.max_seq_len, shape.vocab_size - 1
    tokens = np.random.default_rng(0).integers(0, end, (ROWS * mesh.devices.size, length + 1), dtype=np.int32)
    tokens[::2, [0, length // 4 - 29, length // 4 - 1, 3 * length // 4 - 1, 3 * length // 4]] = end
    tokens[1::2, [length // 2, length - 2]] = end
    return mesh, batch_sharding(mesh), tokens, end
