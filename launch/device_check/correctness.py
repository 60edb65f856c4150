"""What the device computes: attention and the training step beside float32, and an export beside transformers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from case import case, kernel_here, shape_of

from phi_jax.config import Config
from phi_jax.errors import UserError

Figures = dict[str, Any]
ROWS = 2  # a device


def correctness(context: Figures) -> Iterator[Figures]:
    """Attention and then a whole step, by the fused kernel and by `xla` in bfloat16, beside `xla` in float32.

    On a CPU, which has no fused kernel, splash runs in Pallas' interpreter. Raises UserError where an error exceeds its
    bound, or where a kernel that takes no notice of documents would have passed.
    """
    from phi_jax.parallel.mesh import make_mesh

    interpret = kernel_here() == "xla"
    kernel = "splash" if interpret else kernel_here()
    mesh = make_mesh((1, -1, 1))
    found: Figures = {
        "kernel": kernel,
        "interpreted": interpret,
        "reference": "xla in float32, products at jax's precision highest",
        "bounds": {"rms": RMS, "largest": LARGEST},
    }
    whole = case("phi_1", context["shapes"], kernel)
    for name, judge in (("attention", _attention), ("step", _step)):
        found[name], wrong = judge(whole, kernel, interpret, mesh)
        yield found
        if wrong:
            raise UserError(f"{name}: {'; '.join(wrong)}")


# --- Attention -----------------------------------------------------------------------------------------------------


def _attention(whole: Figures, kernel: str, interpret: bool, mesh: Any) -> tuple[Figures, list[str]]:
    """Errors of outputs and gradients by documents, kernel and array; what is wrong with them."""
    import jax
    import jax.numpy as jnp

    from phi_jax.model.attention import attend, causal_mask, segments_of
    from phi_jax.parallel.mesh import batch_sharding
    from phi_jax.parallel.sharded_attention import sharded_attention

    shape = shape_of(whole)
    fused: Any = sharded_attention(shape, mesh, interpret=interpret)
    tokens, end = _tokens(shape, mesh)
    documents = jax.device_put(segments_of(tokens[:, :-1], end), batch_sharding(mesh))
    size = (len(tokens), shape.max_seq_len, shape.num_heads, shape.head_dim)

    # Rounded to bfloat16 for the reference too: what is measured is the computing.
    @functools.partial(jax.jit, out_shardings=batch_sharding(mesh))
    def drawn() -> list[jax.Array]:
        return [jax.random.normal(key, size, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 4)]

    def xla(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
        return attend(q, k, v, causal_mask(size[1], segments))

    inputs, found, wrong = drawn(), {}, []
    exact = [x.astype(jnp.float32) for x in inputs]
    for name, segments in (("whole", None), ("documents", documents)):
        with jax.default_matmul_precision("highest"):
            expected = _with_gradients(xla, exact, segments)
        tried = {kernel: (fused, segments), "xla": (xla, segments)}
        if segments is not None:
            tried[BLIND] = (fused, None)
        found[name] = {}
        for label, (attention, given) in tried.items():
            errors = found[name][label] = _errors(_with_gradients(attention, inputs, given), expected)
            for array, e in errors.items():
                passes = e["relative_rms"] <= RMS and e["relative_largest"] <= LARGEST
                if passes == (label == BLIND):
                    wrong.append(f"{name}, {label}: {array} {'passes' if passes else f'is off by {e}'}")
    return found, wrong


BLIND = "fused kernel that is told of no documents"  # must not pass
# Of the differences' root mean square, and of the largest one, as shares of the same of the reference. bfloat16 rounds
# by at most 2^-9, 2^-10.3 in the mean square. A kernel rounds probabilities, their gradients and what it returns, and
# its own outputs once more where the gradient is built on them: half a dozen roundings that add like noise, 2^-9, are
# met at 2^-8 or less. The largest difference stands at the largest values, where one rounding alone is 2^-9 of them.
# Four times that is the bound of both; a kernel with a wrong mask, scale or order is off by 2^-2 and more.
RMS, LARGEST = 2**-7, 2**-6


def _with_gradients(attention: Callable[..., Any], inputs: Any, segments: Any) -> dict[str, Any]:
    """{"heads", "dq", "dk", "dv"} of (q, k, v, cotangent)."""
    import jax

    @jax.jit
    def run(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array, segments: Any) -> dict[str, jax.Array]:
        heads, pull = jax.vjp(lambda q, k, v: attention(q, k, v, segments), q, k, v)
        return dict(zip(("heads", "dq", "dk", "dv"), (heads, *pull(cotangent.astype(heads.dtype))), strict=True))

    return run(*inputs, segments)


def _errors(got: dict[str, Any], expected: dict[str, Any]) -> Figures:
    """Of each array: the largest difference, and that and the differences' root mean square as shares."""
    import jax
    import jax.numpy as jnp

    def of(a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
        off = jnp.abs(a.astype(jnp.float32) - b)
        largest, rms = off.max(), jnp.sqrt(jnp.square(off).mean() / jnp.square(b).mean())
        return {"largest": largest, "relative_largest": largest / jnp.abs(b).max(), "relative_rms": rms}

    @jax.jit
    def of_each(got: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
        return {name: of(got[name], expected[name]) for name in expected}

    return {name: {k: float(v) for k, v in e.items()} for name, e in of_each(got, expected).items()}


def _tokens(shape: Any, mesh: Any) -> tuple[Any, int]:
    """(random tokens int32 [B, T + 1], the end-of-text token): several documents in each row.

    Some are one token long; some edges lie on the edge of a kernel's block, some beside it.
    """
    import numpy as np

    length, end = shape.max_seq_len, shape.vocab_size - 1
    tokens = np.random.default_rng(0).integers(0, end, (ROWS * mesh.devices.size, length + 1), dtype=np.int32)
    tokens[::2, [0, length // 4 - 29, length // 4 - 1, 3 * length // 4 - 1, 3 * length // 4]] = end
    tokens[1::2, [length // 2, length - 2]] = end
    return tokens, end


# --- A step --------------------------------------------------------------------------------------------------------


def _step(whole: Figures, kernel: str, interpret: bool, mesh: Any) -> tuple[Figures, list[str]]:
    """Losses and errors of each parameter's gradient, of two blocks with phi-1's heads; what is wrong with them."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax.traverse_util import flatten_dict

    from phi_jax.parallel.mesh import batch_sharding
    from phi_jax.training import loss
    from phi_jax.training.step import fresh_state, make_train_step

    # Weights of this width give attention's logits a standard deviation near 1, as 0.02 does at phi-1's width.
    width = whole["model"]["hidden_size"]
    shape = shape_of(whole, num_layers=2, residual_dropout=0.0, initializer_range=0.9 * width**-0.5)
    rules = Config({**whole["training"], "skip_spike": 0.0})
    tokens, end = _tokens(shape, mesh)
    batch = jax.device_put(tokens, batch_sharding(mesh))

    optimizer = optax.sgd(1.0)  # what such a step takes from the weights is their gradient
    start = fresh_state(shape, optimizer, mesh, 0)
    difference = jax.jit(lambda a, b: jax.tree.map(jnp.subtract, a, b))

    def gradients(document_end: int | None, **changes: Any) -> tuple[float, Figures]:
        step = make_train_step(
            dataclasses.replace(shape, **changes), optimizer, mesh, rules, seed=0, document_end=document_end
        )
        state, figures = step(jax.tree.map(jnp.copy, start), batch)
        return float(figures["loss"]), flatten_dict(difference(start["params"], state["params"]), sep="/")

    exact = {"attention": "xla", "compute_dtype": "float32"}
    with jax.default_matmul_precision("highest"):
        expected_loss, expected = gradients(end, **exact)
    found: Figures = {"float32": {"loss": expected_loss}}
    interpreted = functools.partial(loss.sharded_attention, interpret=True)
    with unittest.mock.patch.object(loss, "sharded_attention", interpreted) if interpret else contextlib.nullcontext():
        for name, document_end, changes in ((kernel, end, {}), ("xla", end, {"attention": "xla"}), (BLIND, None, {})):
            of_loss, got = gradients(document_end, **changes)
            errors = {path: e["relative_rms"] for path, e in _errors(got, expected).items()}
            found[name] = {"loss": of_loss, "relative_rms": errors}
    return found, _wrong_gradients(found, kernel)


def _wrong_gradients(found: Figures, kernel: str) -> list[str]:
    """The fused kernel's gradients are as far from float32's as those of `xla`, which rounds in the same places but in
    attention: at most twice as far, and RMS more. The blind kernel's are farther in at least every matrix of attention.
    """
    bounds = {path: 2 * error + RMS for path, error in found["xla"]["relative_rms"].items()}
    wrong = [
        f"{kernel}: gradient of {path} is off by {error:.2g}, bound {bounds[path]:.2g}"
        for path, error in found[kernel]["relative_rms"].items()
        if not error <= bounds[path]
    ]
    blind = found[BLIND]["relative_rms"]
    return wrong + [
        f"{BLIND}: gradient of {path} passes"
        for path in bounds
        if "attention" in path and path.endswith("kernel") and blind[path] <= bounds[path]
    ]


# --- An export -----------------------------------------------------------------------------------------------------


def export(context: Figures) -> Iterator[Figures]:
    """A random model of two blocks of phi-1's width, exported, and its logits by transformers here and by us."""
    import tempfile

    import jax
    import numpy as np
    import torch
    import transformers

    from phi_jax.model import phi
    from phi_jax.weights.huggingface import export_model

    whole = case("phi_1", context["shapes"], "xla")
    shape = shape_of(whole, num_layers=2, compute_dtype="float32", attention_dropout=0.0, residual_dropout=0.0)
    leaves, tree = jax.tree.flatten(phi.abstract_params(shape))
    rng = np.random.default_rng(0)
    # Biases and norms are random too: zeros and ones would hide errors.
    spread = shape.hidden_size**-0.5
    params = tree.unflatten([spread * rng.standard_normal(x.shape, np.float32) for x in leaves])
    tokens = rng.integers(0, shape.vocab_size, (2, min(256, shape.max_seq_len)), dtype=np.int32)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as directory:
        export_model(params, shape, Path(directory), tokenizer_directory=None, end_of_text_id=0)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, torch_dtype="float32").to(place).eval()
    with torch.inference_mode():
        theirs = model(torch.from_numpy(tokens).long().to(place)).logits.float().cpu().numpy()
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(phi.forward, static_argnums=2)(params, tokens, shape))
    off = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    yield {"torch_on": place, "relative_largest": off, "bound": LOGITS, "same_next_token": same}
    if not off <= LOGITS:
        raise UserError(f"logits differ by {off:.2g} of the largest, bound {LOGITS:.2g}")


# float32 rounds by 2^-24; sums of 8192 products in another order are off by some 2^-20 of their terms, and two blocks
# and a head pass that on a few times. TF32, of which either side might make use unasked, is off by 2^-11.
LOGITS = 2**-14
