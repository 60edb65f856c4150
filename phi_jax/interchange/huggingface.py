"""Hugging Face's Phi format: one name map, read in both directions. No torch: numpy and safetensors suffice.

Reference: transformers' PhiForCausalLM (model_type "phi"), to which every tensor below was compared.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from phi_jax.artifact import write_json
from phi_jax.errors import UserError
from phi_jax.model.phi import Params, PhiConfig, abstract_params

WEIGHTS = "model.safetensors"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}

# Our path -> name of the tensor in a Phi checkpoint; {} is the layer. Torch's matrices are [out, in], ours [in, out].
NAMES = {
    "embed/tokens": "model.embed_tokens.weight",
    "layers/norm/scale": "model.layers.{}.input_layernorm.weight",
    "layers/norm/bias": "model.layers.{}.input_layernorm.bias",
    "layers/attention/q/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layers/attention/q/bias": "model.layers.{}.self_attn.q_proj.bias",
    "layers/attention/k/kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layers/attention/k/bias": "model.layers.{}.self_attn.k_proj.bias",
    "layers/attention/v/kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layers/attention/v/bias": "model.layers.{}.self_attn.v_proj.bias",
    "layers/attention/out/kernel": "model.layers.{}.self_attn.dense.weight",
    "layers/attention/out/bias": "model.layers.{}.self_attn.dense.bias",
    "layers/mlp/fc1/kernel": "model.layers.{}.mlp.fc1.weight",
    "layers/mlp/fc1/bias": "model.layers.{}.mlp.fc1.bias",
    "layers/mlp/fc2/kernel": "model.layers.{}.mlp.fc2.weight",
    "layers/mlp/fc2/bias": "model.layers.{}.mlp.fc2.bias",
    "final_norm/scale": "model.final_layernorm.weight",
    "final_norm/bias": "model.final_layernorm.bias",
    "head/kernel": "lm_head.weight",
    "head/bias": "lm_head.bias",
}


def _matrix_shape(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(in, out) of one layer's kernel, whose heads may be an axis of their own."""
    inputs = 2 if path.endswith("out/kernel") else 1
    return int(np.prod(shape[:inputs])), int(np.prod(shape[inputs:]))


def to_torch(path: str, value: np.ndarray) -> np.ndarray:
    """One layer's array in our layout -> the tensor that PhiForCausalLM holds, contiguous."""
    if path.endswith("kernel"):
        # safetensors writes the buffer of a transposed view as it lies, silently wrong: hence contiguous.
        return np.ascontiguousarray(value.reshape(_matrix_shape(path, value.shape)).T)
    return np.ascontiguousarray(value if path == "embed/tokens" else value.reshape(-1))


def from_torch(path: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`; `shape` is one layer's shape in our layout."""
    return (tensor.T if path.endswith("kernel") else tensor).reshape(shape)


def tensors_of(params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of a whole model in torch's layout, layer by layer."""
    for path, name in NAMES.items():
        value = np.asarray(_at(params, path))
        if path.startswith("layers/"):
            for layer, part in enumerate(value):
                yield name.format(layer), to_torch(path, part)
        else:
            yield name, to_torch(path, value)


def export_phi(
    params: Params,
    config: PhiConfig,
    directory: Path,
    *,
    tokenizer_directory: Path,
    end_of_text_id: int,
    dtype: str = "float32",
) -> None:
    """Writes a directory that transformers 4 and 5 load: weights, configs, tokenizer files.

    Raises UserError where `directory` exists, for an unknown dtype and for a value that float16 cannot hold;
    nothing is left half-written.
    """
    from safetensors.numpy import save_file

    directory = Path(directory)
    if directory.exists():
        raise UserError(f"{directory}: exists already; remove it, or export to another place")
    if dtype not in DTYPES:
        raise UserError(f"config.export.dtype={dtype!r}: unknown; use one of {', '.join(DTYPES)}")
    temporary = directory.parent / f".tmp-{directory.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tensors = {name: _cast(name, tensor, dtype) for name, tensor in tensors_of(params)}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / "config.json", config_json(config, end_of_text_id, dtype))
        ids = {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
        write_json(temporary / "generation_config.json", {"_from_model_config": True, **ids})
        for file in sorted(Path(tokenizer_directory).iterdir()):
            shutil.copyfile(file, temporary / file.name)
        os.rename(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = tensor.astype(DTYPES[dtype])
    if not np.isfinite(cast).all():
        kind = "holds values that are not finite" if not np.isfinite(tensor).all() else f"does not fit {dtype}"
        raise UserError(f"tensor {name} {kind}; export with --config.export.dtype=bfloat16, or look into the run")
    return cast


def config_json(config: PhiConfig, end_of_text_id: int, dtype: str) -> dict[str, Any]:
    """config.json in the style of transformers 4 and of 5 at once, with nothing left to a reader's default.

    Readers that go wrong otherwise: MLX takes a partial_rotary_factor of 0.4 where the top level has none;
    TGI fails on null num_key_value_heads; transformers 5 takes 1 and 2 for absent bos and eos ids.
    """
    factor = config.rotary_dim / config.head_dim
    return {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_dim,
        "hidden_act": "gelu_new",
        "max_position_embeddings": config.max_seq_len,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "attention_dropout": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "embd_pdrop": 0.0,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "partial_rotary_factor": factor,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": factor,
        },
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def load_phi(directory: Path) -> tuple[Params, PhiConfig]:
    """(parameters as float32 numpy arrays, shape) of a Phi directory.

    Raises UserError for another architecture, for a missing, unknown, misshapen or non-finite tensor.
    """
    directory = Path(directory)
    config = _read_config(directory)
    tensors = _read_tensors(directory)
    params: Params = {}
    for path, abstract in _flat(abstract_params(config)):
        name = NAMES[path]
        if path.startswith("layers/"):
            shape = abstract.shape[1:]
            names = [name.format(layer) for layer in range(config.num_layers)]
            value = np.stack([_take(tensors, n, path, shape, directory) for n in names])
        else:
            value = _take(tensors, name, path, abstract.shape, directory)
        _put(params, path, value)
    unknown = sorted(n for n in tensors if not n.endswith("rotary_emb.inv_freq"))
    if unknown:
        raise UserError(f"{directory}: tensor {unknown[0]} belongs to no Phi model of this config; is it another model?")
    return params, config


def _read_config(directory: Path) -> PhiConfig:
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{directory}: no config.json; name a directory in Hugging Face's format")
    try:
        c = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); get a good copy") from None
    if c.get("model_type") != "phi":
        raise UserError(f"{path}: model_type is {c.get('model_type')!r}; only 'phi' can be read")
    if c.get("qk_layernorm"):
        raise UserError(f"{path}: qk_layernorm is set; no published phi has it, and neither does this model")
    heads = c["num_attention_heads"]
    if c.get("num_key_value_heads") not in (None, heads):
        raise UserError(f"{path}: num_key_value_heads differs from num_attention_heads; phi has no grouped queries")
    rope = c.get("rope_parameters") or {}
    head_dim = c["hidden_size"] // heads
    # 0.5 and 10000 are PhiConfig's own defaults in transformers.
    factor = c.get("partial_rotary_factor", rope.get("partial_rotary_factor", 0.5))
    return PhiConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["intermediate_size"],
        num_layers=c["num_hidden_layers"],
        num_heads=heads,
        head_dim=head_dim,
        rotary_dim=int(head_dim * factor),
        max_seq_len=c["max_position_embeddings"],
        layer_norm_eps=c.get("layer_norm_eps", 1e-5),
        rope_theta=c.get("rope_theta", rope.get("rope_theta", 10000.0)),
        attention_dropout=c.get("attention_dropout", 0.0),
        residual_dropout=c.get("resid_pdrop", 0.0),
        initializer_range=c.get("initializer_range", 0.02),
    )


def _read_tensors(directory: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    index = directory / f"{WEIGHTS}.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = [WEIGHTS]
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        path = directory / file
        if not path.is_file():
            raise UserError(f"{path}: missing; get the whole model directory")
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None
    return tensors


def _take(
    tensors: dict[str, np.ndarray], name: str, path: str, shape: tuple[int, ...], directory: Path
) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"{directory}: tensor {name} is missing; get the whole model directory")
    tensor = tensors.pop(name)
    expected = to_torch(path, np.broadcast_to(np.int8(0), shape)).shape
    if tensor.shape != expected:
        raise UserError(
            f"{directory}: tensor {name} has shape {tensor.shape}, config.json says {expected}; get a good copy"
        )
    value = tensor.astype(np.float32)
    if not np.isfinite(value).all():
        raise UserError(f"{directory}: tensor {name} holds values that are not finite; get a good copy")
    return from_torch(path, value, shape)


def _flat(tree: Params, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _at(tree: Params, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


def _put(tree: Params, path: str, value: np.ndarray) -> None:
    *parents, last = path.split("/")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value

