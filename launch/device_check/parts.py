"""The parts of a device check. Each takes a dict that it fills with figures, and whether the shapes are tiny.

A list of what is "wrong" among the figures makes the part a failure.
"""

import functools
import runpy
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phi_jax.bench import sample_speed, train_speed
from phi_jax.config import Config, from_config_dict
from phi_jax.model import phi
from phi_jax.model.attention import attend, causal_mask, segments_of
from phi_jax.parallel.mesh import BatchCut, batch_sharding, make_mesh
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.parallel.sharded_attention import sharded_attention
from phi_jax.planning.memory import estimate_memory
from phi_jax.store.artifact import Json
from phi_jax.training.loss import batch_loss
from phi_jax.weights.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
# Of the smallest model that still has phi-1's heads: every part runs on a CPU with it.
TINY = {"num_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2}
ROWS = 2  # a device
END = 0  # the end-of-text token
EXACT = {"attention": "xla", "compute_dtype": "float32"}  # with products at jax's highest precision
# Of an array's differences from the reference: their root mean square, as a share of the array's; the largest, as a
# share of the array's largest, may be twice that. bfloat16 rounds by at most 2^-9, in the mean square by 2^-10.3. A
# kernel rounds probabilities, their gradients and what it returns, and the gradient is built on a rounded output: half
# a dozen roundings add like noise, to 2^-9, and the bound is four times that (splash and xla on a CPU, 2048 positions:
# 2^-8.6). A kernel with a wrong mask, scale or order is off by 2^-2 and more; one blind to documents by 2^-0.4.
ATTENTION = 2**-7
# Two blocks round on: `xla` on a CPU is off by 2^-8.7 to 2^-5.6 in the gradients at phi-1's width and 2048 positions,
# and by 2^-17.7 in the loss. Blind to documents, at TINY's, by 2^-3.6 and more (not the head's bias), and by 2^-8.8.
GRADIENT, LOSS = 2**-4, 2**-10
LOGIT = 2**-12  # float32; of a token chosen at random, about 1


# --- Correctness, beside float32 --------------------------------------------------------------------------------


def attention(figures: Json, tiny: bool) -> None:
    """Attention in bfloat16 at phi-1's head shapes, outputs and gradients, for rows of one document and of several."""
    shape = _shape(tiny)
    tokens = _tokens(shape)
    size = len(tokens), shape.max_seq_len, 4 * shape.num_heads, shape.head_dim
    # Rounded to bfloat16 for the reference too: what is measured is the computing.
    drawn = jax.device_put(jax.random.normal(jax.random.key(0), size, jnp.bfloat16), tokens.sharding)
    inputs = jnp.split(drawn, 4, axis=2)

    def xla(q: Any, k: Any, v: Any, segments: Any) -> jax.Array:
        return attend(q, k, v, causal_mask(shape.max_seq_len, segments))

    @functools.partial(jax.jit, static_argnums=0)
    def run(kernel: Any, segments: Any, *inputs: Any) -> Any:
        heads, pull = jax.vjp(lambda *qkv: kernel(*qkv, segments), *inputs[:3])
        return {"heads": heads, "d_qkv": pull(inputs[3])}

    fused = sharded_attention(shape, BatchCut(tokens.sharding.mesh)) or xla
    for name, segments in (("whole", None), ("documents", segments_of(tokens[:, :-1], END))):
        with jax.default_matmul_precision("highest"):
            expected = run(xla, segments, *(x.astype(jnp.float32) for x in inputs))
        for kernel, function in {"xla": xla, shape.attention: fused}.items():
            label = f"{kernel}, {name}"
            _compare(figures, label, run(function, segments, *inputs), expected, ATTENTION)
            figures[f"{label}: seconds"] = _seconds(run, function, segments, *inputs)


def gradients(figures: Json, tiny: bool) -> None:
    """Loss and gradients in bfloat16 of two blocks of phi-1's width and its head, rows of several documents."""
    shape = _shape(tiny)
    tokens, params = _tokens(shape), phi.init_params(shape, jax.random.key(0))
    loss = functools.partial(batch_loss, document_end=END, cut=BatchCut(tokens.sharding.mesh))
    step = jax.jit(jax.value_and_grad(loss), static_argnums=(2, 3))
    with jax.default_matmul_precision("highest"):
        expected = step(params, tokens, _shape(tiny, **EXACT), 256)
    for kernel in {"xla", shape.attention}:
        got = step(params, tokens, _shape(tiny, attention=kernel), 256)
        _compare(figures, f"{kernel}: loss", got[0], expected[0], LOSS)
        _compare(figures, kernel, got[1], expected[1], GRADIENT)


def sampler(figures: Json, tiny: bool) -> None:
    """The logits of tokens that the sampler chose greedily, five prompts in two slots, beside the highest logits of a
    forward pass over the whole rows; in float32.
    """
    shape = _shape(tiny, **EXACT)
    params = phi.init_params(shape, jax.random.key(0))
    rows = np.random.default_rng(0).integers(0, shape.vocab_size, (5, 124))
    with jax.default_matmul_precision("highest"):
        sampling = Sampler(params, shape, end_of_text_id=shape.vocab_size, max_new_tokens=24, slots=2)
        for i, completion in sampling.complete([Request(row[:100].tolist()) for row in rows]):
            rows[i, 100:] = completion.tokens
        logits = jax.jit(phi.forward, static_argnums=2)(params, rows, shape)[:, 99:-1]
    chosen = jnp.take_along_axis(logits, rows[:, 100:, None], -1)
    _compare(figures, "logits", chosen, logits.max(-1, keepdims=True), LOGIT)


def save(figures: Json, tiny: bool) -> None:
    """Parameters, saved as training saves them, and read back, which compares digests too."""
    state = {"params": phi.init_params(_shape(tiny), jax.random.key(0))}
    with tempfile.TemporaryDirectory(dir=".") as folder, Checkpoints(folder) as saves:
        saves.save(1, state, {})
        saves.wait()
        _, restored, _ = saves.restore_latest(state)  # type: ignore[misc]
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def _tokens(shape: phi.PhiConfig) -> Any:
    """Random tokens int32 [B, T + 1] over the devices.

    Each other row holds several documents: two of one token, one that ends where a kernel's block does, one beside it.
    """
    length = shape.max_seq_len
    size = ROWS * jax.device_count(), length + 1
    tokens = np.random.default_rng(0).integers(END + 1, shape.vocab_size, size, np.int32)
    tokens[::2, [0, length // 4 - 1, length // 4, length // 2, length - 2]] = END
    return jax.device_put(tokens, batch_sharding(make_mesh((1, -1, 1))))


def _compare(figures: Json, label: str, got: Any, expected: Any, bound: float) -> None:
    """Notes how far each array is from the one expected: the larger of both shares that stand at ATTENTION."""
    for (path, right), left in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(got), strict=True):
        off, norm = jnp.abs(left - right), jnp.linalg.norm
        error = float(jnp.maximum(norm(off) / norm(right), off.max() / jnp.abs(right).max() / 2))
        name = f"{label}{jax.tree_util.keystr(path)}"
        figures[name] = error
        if not error <= bound:
            figures.setdefault("wrong", []).append(f"{name} is off by {error:.2g}")


# --- Speed ----------------------------------------------------------------------------------------------------


def step(figures: Json, tiny: bool, config: str, remat: str, rows: str) -> None:
    """A config's training step, and its memory by phi_jax/planning/memory.py."""
    chosen = _case(tiny, config, int(rows), remat=remat)
    rules = Config(chosen["training"])
    estimate = estimate_memory(phi.PhiConfig(**chosen["model"]), rules, make_mesh(rules.mesh))
    figures["estimated_peak_memory_bytes"] = sum(estimate.values())
    figures |= train_speed.measure(**chosen, steps=2 if tiny else 20)["figures"]


def ceilings(figures: Json, tiny: bool) -> None:
    """On one device, TFLOP/s of a product of the MLP in bfloat16, and GB/s of memory, values read and written once."""
    model = _case(tiny)["model"]
    m, k, n = 32 * model["max_seq_len"], model["hidden_size"], model["intermediate_size"]
    left, right = (jax.random.normal(jax.random.key(0), size, jnp.bfloat16) for size in ((m, k), (k, n)))
    figures["teraflops"] = 2 * m * k * n / _seconds(jnp.dot, left, right) / 1e12
    figures["gigabytes_per_second"] = 2 * left.nbytes / _seconds(jnp.negative, left) / 1e9


def sampler_speed(figures: Json, tiny: bool, slots: str) -> None:
    """The sampler's tokens a second; every slot has its turn, twice."""
    model = _case(tiny, attention="xla")["model"]
    work = {**sample_speed.work_of(model), "samples_per_problem": max(5, int(slots) // 2)}
    figures |= sample_speed.measure(model, work, int(slots))


def torch_step(figures: Json, tiny: bool) -> None:
    """The work of step.phi_1.none.4 on one device, compiled; torch may take its flash, memory-efficient or cuDNN
    kernel, not the plain one.

    Raises ModuleNotFoundError, which skips the part, where there is no torch, or none that sees a GPU.
    """
    import torch

    if not tiny and not torch.cuda.is_available():
        raise ModuleNotFoundError("torch without CUDA")
    torch.backends.cuda.enable_math_sdp(tiny)
    sys.path.append(str(ROOT / "tests/benchmarks"))
    from train_transformers import check_same, peer

    chosen = {**_case(tiny), "steps": 2 if tiny else 10}
    figures |= peer(chosen, "sdpa without mask")
    check_same(chosen, {"peer": figures})


def _seconds(function: Any, *arguments: Any) -> float:
    """Of one call, on a device that always has the next one waiting."""
    jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    for _ in range(20):
        last = function(*arguments)
    jax.block_until_ready(last)
    return (time.perf_counter() - start) / 20


# --- Shapes ----------------------------------------------------------------------------------------------------


class _ConfigDict(dict[str, Any]):
    """As much of ml_collections.ConfigDict as the files in configs/ use: a device's machine may lack it."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__
    to_dict = dict.copy


def _case(tiny: bool, config: str = "phi_1", rows: int = 4, **changes: Any) -> Json:
    """What phi_jax.bench.train_speed.measure takes: configs/<config>.py with the kernel that trains on this platform.

    tiny: of TINY's shape. rows: of each device in a step, which has one microbatch. changes: other fields of PhiConfig.
    There is no attention dropout, as the fused kernels have none.
    """
    sys.modules.setdefault("ml_collections", SimpleNamespace(ConfigDict=_ConfigDict))  # type: ignore[arg-type]
    values = runpy.run_path(str(ROOT / "configs" / f"{config}.py"))["get_config"]("attention=cudnn")
    if tiny:
        values.model.update(TINY)
        values.tokenize.update({"vocab_size": 512, "seq_len": 128})
    values.training.update({"microbatches": 1, "global_batch_size": rows * jax.device_count()})
    found = train_speed.case_of(from_config_dict(values))
    kernel = {"gpu": "cudnn", "tpu": "splash"}.get(jax.default_backend(), "xla")
    found["model"] |= {"attention": kernel, **changes}
    return found


def _shape(tiny: bool, **changes: Any) -> phi.PhiConfig:
    """Two blocks of phi-1 without dropout; the weights give attention's logits a standard deviation near 1."""
    changes |= {"num_layers": 2, "residual_dropout": 0.0, "initializer_range": 0.08 if tiny else 0.02}
    return phi.PhiConfig(**_case(tiny, **changes)["model"])
