"""How far a model's activations reach, for clients that compute in float16: its weights alone do not tell.

transformers' eager attention multiplies queries and keys before it scales their product, so that a model that is fine
in bfloat16, where phi_1 trains, may give NaN in float16.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from phi_jax.model import phi
from phi_jax.weights.architectures.phi_names import PHI
from phi_jax.weights.huggingface import load_tokenizer, read_architecture
from phi_jax.weights.tensor_files import open_tensors

FLOAT16_MAX = float(np.finfo(np.float16).max)  # 65,504
_SCORES = "queries times keys"
_POSITIONS = 64  # tokens of each text at most
_TEXTS = (
    'def mean(numbers: list[float]) -> float:\n    """The mean of some numbers; 0 of none."""\n    total = 0.0\n'
    "    for number in numbers:\n        total += number\n    return total / len(numbers) if numbers else 0.0\n",
    "A stack holds items in the order in which they came. The last one that was pushed is the first one to be popped, "
    "so that a function's local names lie above those of its caller. Let us write one in Python, step by step.",
    "import os, sys\n\n\nclass A(B):\n\tx = {'a': [1, 2.5, -3], \"b\": None}\n\n\tdef f(self, *args, **kwargs):\n"
    "\t\tif not args: raise ValueError(f'{self.x!r} ... 100 %')\n\t\treturn [(i, j) for i in args for j in kwargs]\n",
)


def activation_peaks(directory: Path) -> dict[str, float]:
    """Kind of tensor -> the largest magnitude of one, over all blocks: a forward pass in float32 over a few texts.

    directory: in Hugging Face's format, which load_directory and load_tokenizer read without complaint. One block's
    parameters, or the head's, are in memory at a time (three layers of phi-1: 1.8 GiB, 12 s of a core). What is not
    finite is infinite.
    """
    architecture, config = read_architecture(directory)
    one, tensors = dataclasses.replace(config, num_layers=1), open_tensors(directory)
    shapes = flatten_dict(phi.abstract_params(one), sep="/")

    def read(group: str, layer: int = 0) -> phi.Params:
        leaves = {path: np.zeros(x.shape, np.float32) for path, x in shapes.items() if path.startswith(group)}
        of_layer = {name.format(layer=0): name.format(layer=layer) for name in architecture.names.values()}
        for name, parts in architecture.parts(leaves, one).items():
            architecture.fill(parts, tensors[of_layer[name]].read(), one)
        return unflatten_dict(leaves, sep="/")

    tokenizer = load_tokenizer(directory, config)
    rows = [ids[: config.max_seq_len][:_POSITIONS] for ids in tokenizer.encode_batch(_TEXTS)]
    width = max(map(len, rows))
    tokens_BxT = np.array([ids + [tokenizer.end_of_text_id] * (width - len(ids)) for ids in rows])
    x_BxTxD = read("embed")["embed"]["tokens"][tokens_BxT]
    highest = {"residual": float(np.abs(x_BxTxD).max())}

    def note(peaks: Mapping[str, Array]) -> None:
        for kind, peak in peaks.items():
            highest[kind] = max(highest.get(kind, 0.0), float(np.nan_to_num(peak, nan=np.inf, posinf=np.inf)))

    for layer in range(config.num_layers):
        x_BxTxD, of_block = _block(read("layers", layer)["layers"], x_BxTxD, one)
        note(of_block)
    note(_end(read("final_norm") | read("head"), x_BxTxD, one))
    if architecture is not PHI:  # clients multiply a CodeGen's queries and keys in float32
        del highest[_SCORES]
    return dict(sorted(highest.items(), key=lambda item: -item[1]))


@functools.partial(jax.jit, static_argnames="config")
def _block(weights: phi.Params, x_BxTxD: Array, config: phi.PhiConfig) -> tuple[Array, dict[str, Array]]:
    length = x_BxTxD.shape[1]
    seen = phi.block(
        jax.tree.map(lambda stacked: stacked[0], weights), x_BxTxD, phi.rotary(jnp.arange(length)[None], config),
        phi.block_attention(config, length, None, None), config,
    )  # fmt: skip
    others = {
        _SCORES: jnp.einsum("bthk,bshk->bhts", seen["queries"], seen["keys"]),
        "attention and MLP": seen["attention"] + seen["MLP"],  # transformers adds these two first
    }
    return seen["residual"], {kind: jnp.abs(x).max() for kind, x in (seen | others).items()}


@functools.partial(jax.jit, static_argnames="config")
def _end(weights: phi.Params, x_BxTxD: Array, config: phi.PhiConfig) -> dict[str, Array]:
    hidden_BxTxD = phi.layer_norm(weights["final_norm"], x_BxTxD, config)
    return {"norm": jnp.abs(hidden_BxTxD).max(), "logits": jnp.abs(phi.logits(weights, hidden_BxTxD, config)).max()}


def float16_overflow(peaks: Mapping[str, float]) -> str:
    """Which of `activation_peaks` float16 cannot hold, as in "residual 2.8e+06, MLP 7e+04"; "" where it holds all."""
    return ", ".join(f"{kind} {peak:.2g}" for kind, peak in peaks.items() if peak > FLOAT16_MAX)
