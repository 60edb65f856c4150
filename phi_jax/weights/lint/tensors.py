"""The tensors: all there, of the shapes and the dtype that config.json says, and no others."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from phi_jax.weights.lint.config import CONFIG, Shape
from phi_jax.weights.lint.finding import Finding, error, named, warning
from phi_jax.weights.lint.shards import FLOATS, SINGLE, Tensor

# dtype -> those that hold each of its values.
HOLDS = {
    "float16": ("float16", "float32", "float64"),
    "bfloat16": ("bfloat16", "float32", "float64"),
    "float32": ("float32", "float64"),
    "float64": ("float64",),
}
# Constants that old releases saved with the weights.
CONSTANTS = re.compile(r"\.rotary_emb\.inv_freq$|\.attn\.causal_mask$")


def lint_tensors(tensors: dict[str, Tensor], config: dict[str, Any], shape: Shape | None) -> Iterator[Finding]:
    """Findings about the tensors of a model. shape None: names and shapes are not compared.

    Both transformers were run (tests/peers/test_lint_saved.py). MLX: mlx-lm's `load_weights(strict=True)` refuses a
    missing and an unknown name; vLLM: `models/phi.py` looks an unknown one up (KeyError).
    """
    if shape is not None:
        yield from _against_shape(tensors, config, shape)
    yield from _dtypes(tensors, config)


def expected_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of a model, as PhiForCausalLM and CodeGenForCausalLM name them."""
    v, d, f = shape.vocab_size, shape.hidden_size, shape.intermediate_size
    if shape.architecture == "codegen":
        top = {"transformer.wte.weight": (v, d), **_norm("transformer.ln_f", d), **_linear("lm_head", v, d)}
        layer = {
            **_norm("ln_1", d), "attn.qkv_proj.weight": (3 * d, d), "attn.out_proj.weight": (d, d),
            **_linear("mlp.fc_in", f, d), **_linear("mlp.fc_out", d, f),
        }  # fmt: skip
        prefix = "transformer.h"
    else:
        q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        top = {"model.embed_tokens.weight": (v, d), **_norm("model.final_layernorm", d), **_linear("lm_head", v, d)}
        layer = {
            **_norm("input_layernorm", d), **_linear("self_attn.q_proj", q, d), **_linear("self_attn.k_proj", k, d),
            **_linear("self_attn.v_proj", k, d), **_linear("self_attn.dense", d, q),
            **_linear("mlp.fc1", f, d), **_linear("mlp.fc2", d, f),
        }  # fmt: skip
        if shape.qk_layernorm:
            layer |= {**_norm("self_attn.q_layernorm", d // shape.heads)}
            layer |= {**_norm("self_attn.k_layernorm", d // shape.heads)}
        prefix = "model.layers"
    return top | {f"{prefix}.{n}.{name}": size for n in range(shape.layers) for name, size in layer.items()}


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _against_shape(tensors: dict[str, Tensor], config: dict[str, Any], shape: Shape) -> Iterator[Finding]:
    embedding = "transformer.wte.weight" if shape.architecture == "codegen" else "model.embed_tokens.weight"
    rows = tensors[embedding].shape[0] if embedding in tensors and tensors[embedding].shape else shape.vocab_size
    if rows != shape.vocab_size:
        yield error(
            "vocab-size", CONFIG, f"vocab_size is {shape.vocab_size}, {embedding} has {rows} rows: every client fails",
            f"set it to {rows}",
        )  # fmt: skip
    layers = min(shape.layers, 1000)  # a damaged number is not counted up to
    expected = expected_tensors(dataclasses.replace(shape, vocab_size=rows, layers=layers))
    tied = bool(config.get("tie_word_embeddings"))
    if tied:
        yield from _tied("lm_head.weight" in tensors)
        expected.pop("lm_head.weight")
    missing = [name for name in expected if name not in tensors]
    if missing:
        yield error(
            "tensor-missing", SINGLE,
            f"{named(missing)} missing: transformers takes random numbers for it, others fail", "get the whole model",
        )  # fmt: skip
    wrong = [name for name in expected if name in tensors and tensors[name].shape != expected[name]]
    if wrong:
        name = wrong[0]
        has, wanted = list(tensors[name].shape), list(expected[name])
        yield error(
            "tensor-shape", tensors[name].file,
            f"{named(wrong)} of shape {has} instead of config.json's {wanted}: every client fails",
            "get the config.json that belongs to these weights",
        )  # fmt: skip
    surplus = sorted(set(tensors) - set(expected) - ({"lm_head.weight"} if tied else set()))
    constants = [name for name in surplus if CONSTANTS.search(name)]
    if constants and shape.architecture == "phi":
        problem = f"{named(constants)} of an old release, a constant: MLX fails"
        yield warning("tensor-unknown", tensors[constants[0]].file, ["MLX"], problem, "remove it")
    unknown = [name for name in surplus if name not in constants]
    if unknown:
        clients = ["transformers"] + (["MLX", "vLLM"] if shape.architecture == "phi" else [])
        yield warning(
            "tensor-unknown", tensors[unknown[0]].file, clients,
            f"{named(unknown)} not of this config: transformers drops it, silently"
            + (", MLX and vLLM fail" if shape.architecture == "phi" else ""),
            "remove it, or get the config.json that belongs to these weights",
        )  # fmt: skip


def _tied(has_own: bool) -> Iterator[Finding]:
    if has_own:
        clients, problem = ["transformers 4", "vLLM"], "transformers 4 drops the model's own lm_head, silently"
    else:
        clients, problem = ["MLX", "vLLM"], "MLX misses lm_head"
    yield warning(
        "tied", CONFIG, clients, f"tie_word_embeddings is true: {problem}, and vLLM refuses it for Phi",
        "set it to false" + ("" if has_own else ", and save lm_head"),
    )  # fmt: skip


def _dtypes(tensors: dict[str, Tensor], config: dict[str, Any]) -> Iterator[Finding]:
    """torch_dtype (transformers before 4.56, and all made for it) and dtype (since) against what the tensors are."""
    old, new = config.get("torch_dtype"), config.get("dtype")
    found = sorted({FLOATS[t.dtype][0] for t in tensors.values() if t.dtype in FLOATS})
    if old is not None and new is not None and old != new:
        yield warning(
            "dtype", CONFIG, ["transformers 5", "vLLM"],
            f"torch_dtype is {old}, dtype {new}: transformers 5 and vLLM take dtype, what is older torch_dtype",
            "set both to the dtype of the tensors",
        )  # fmt: skip
        return
    declared = new or old
    if len(found) > 1:
        yield warning(
            "dtype-mixed", SINGLE, ["transformers 5", "MLX"],
            f"tensors of {' and '.join(found)}: transformers 5 casts all to {declared or 'that of the first'}, "
            "MLX computes with the mixture",
            "save all in one dtype",
        )  # fmt: skip
    elif found and declared is not None and declared != found[0]:
        lossy = declared not in HOLDS[found[0]]
        yield warning(
            "dtype", CONFIG, ["transformers 5", "vLLM"],
            f"{'dtype' if new else 'torch_dtype'} is {declared}, the tensors are {found[0]}: transformers 5 "
            f"{'rounds them' if lossy else 'takes more memory than they need'}, silently, and so does vLLM",
            f"set it to {found[0]}",
        )  # fmt: skip
    elif old is None and found == ["bfloat16"]:
        # Its _get_and_verify_dtype looked for torch_dtype alone, took none for float32, and served that as float16.
        yield warning(
            "dtype", CONFIG, ["early vLLM"],
            "torch_dtype is missing: early vLLM, which does not know dtype, serves float16, though the tensors are "
            "bfloat16, silently",
            "set it to bfloat16, beside dtype",
        )  # fmt: skip
