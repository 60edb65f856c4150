"""Hugging Face's Phi format: one name map, read in both directions. No torch: numpy and safetensors suffice.

Reference: transformers' PhiForCausalLM (model_type "phi"), to which every tensor below was compared.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from phi_jax.artifact import write_json
from phi_jax.errors import UserError
from phi_jax.model.phi import Params, PhiConfig, abstract_params

WEIGHTS = "model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

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
    tokenizer_directory: Path | None,
    end_of_text_id: int,
    dtype: str = "float32",
) -> None:
    """Writes a directory that transformers 4 and 5 load: weights, configs, tokenizer files.

    params: float32 arrays as abstract_params(config) describes them. vocab_size may exceed the tokenizer's.
    tokenizer_directory: where TOKENIZER_FILES are copied from, as many as are there; None = weights only.
    end_of_text_id: written as bos and eos id, which transformers 5 otherwise takes for 1 and 2.
    Raises UserError where `directory` exists and is not an empty directory, for an unknown dtype and for a value
    that is not finite or that float16 cannot hold; nothing is left half-written.
    """
    from safetensors.numpy import save_file

    directory = Path(directory)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
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
        if tokenizer_directory is not None:
            for file in (Path(tokenizer_directory) / name for name in TOKENIZER_FILES):
                if file.is_file():
                    shutil.copyfile(file, temporary / file.name)
        os.rename(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = tensor.astype(DTYPES[dtype], copy=False)
    if not np.isfinite(cast).all():
        if not np.isfinite(tensor).all():
            raise UserError(f"tensor {name} holds values that are not finite: export an earlier checkpoint")
        raise UserError(f"tensor {name} does not fit {dtype}: export as bfloat16 or float32")
    return cast


def config_json(config: PhiConfig, end_of_text_id: int, dtype: str) -> dict[str, Any]:
    """config.json in the style of transformers 4 and of 5 at once, with nothing left to a reader's default.

    Readers that go wrong otherwise: MLX takes a partial_rotary_factor of 0.4 where the top level has none;
    TGI fails on null num_key_value_heads; transformers 5 takes 1 and 2 for absent bos and eos ids.
    """
    factor = config.rotary_dim / config.head_dim
    if int(config.head_dim * factor) < config.rotary_dim:  # readers truncate: e.g. 30 of 44 came back as 29
        factor = float(np.nextafter(factor, 1.0))
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

    The tree is that of abstract_params(config); float16 and bfloat16 are widened, exactly. One tensor is read at a
    time. Raises UserError for another architecture, for a missing, unknown, misshapen or non-finite tensor, and for
    a dtype that is none of DTYPES.
    """
    directory = Path(directory)
    config = _read_config(directory)
    tensors = _open_tensors(directory)
    params: Params = {}
    for path, abstract in _flat(abstract_params(config)):
        value = np.empty(abstract.shape, np.float32)
        if path.startswith("layers/"):
            for layer in range(config.num_layers):
                _take(tensors, NAMES[path].format(layer), path, value[layer], directory)
        else:
            _take(tensors, NAMES[path], path, value, directory)
        _put(params, path, value)
    unknown = sorted(n for n in tensors if not n.endswith("rotary_emb.inv_freq"))  # a constant, in old checkpoints
    if unknown:
        raise UserError(
            f"{directory}: tensor {unknown[0]} belongs to no Phi model of this config; is it another model?"
        )
    return params, config


def _read_config(directory: Path) -> PhiConfig:
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{directory}: no config.json; name a directory in Hugging Face's format")
    c = _read_json(path)
    if c.get("model_type") != "phi":
        raise UserError(f"{path}: model_type is {c.get('model_type')!r}; only 'phi' can be read")
    required = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    for field in required:
        if not isinstance(c.get(field), int) or c[field] < 1:
            raise UserError(f"{path}: {field} is {c.get(field)!r}; it must be a whole number from 1; get a good copy")
    heads = c["num_attention_heads"]
    rope = c.get("rope_parameters") or {}
    # What would make it another function than `phi.forward`; absent or null is transformers' default, which is ours.
    for field, value, allowed in (
        ("hidden_act", c.get("hidden_act"), ("gelu_new", "gelu_pytorch_tanh")),  # two names of one function
        ("qk_layernorm", c.get("qk_layernorm"), (False,)),
        ("tie_word_embeddings", c.get("tie_word_embeddings"), (False,)),
        ("num_key_value_heads", c.get("num_key_value_heads"), (heads,)),
        ("embd_pdrop", c.get("embd_pdrop"), (0.0,)),
        ("rope_scaling", c.get("rope_scaling"), ()),
        ("rope_parameters.rope_type", rope.get("rope_type"), ("default",)),
        ("quantization_config", c.get("quantization_config"), ()),
    ):
        if value is not None and value not in allowed:
            has = f"only {allowed[0]!r}" if allowed else "none"
            raise UserError(f"{path}: {field} is {value!r}, the phi model here has {has}; use another model")
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    # 0.5 and 10000 are what transformers' PhiConfig takes where they are absent.
    factor = _rope_value(path, c, rope, "partial_rotary_factor", 0.5)
    try:
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
            rope_theta=_rope_value(path, c, rope, "rope_theta", 10000.0),
            attention_dropout=c.get("attention_dropout") or 0.0,
            residual_dropout=c.get("resid_pdrop") or 0.0,
            initializer_range=c.get("initializer_range", 0.02),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _rope_value(path: Path, c: dict[str, Any], rope: dict[str, Any], field: str, default: float) -> float:
    """A value that transformers 4 keeps at the top level and 5 under rope_parameters."""
    values = {x[field] for x in (c, rope) if x.get(field) is not None}
    if len(values) > 1:
        raise UserError(f"{path}: {field} is {sorted(values)} in two places; readers differ on which holds: keep one")
    return values.pop() if values else default


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); get a good copy") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; get a good copy")
    return content


def _open_tensors(directory: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Name -> a function that reads that tensor, of all shards."""
    from safetensors import SafetensorError, safe_open

    index = directory / f"{WEIGHTS}.index.json"
    files = [WEIGHTS]
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index}: has no weight_map; get a good copy")
        files = sorted({Path(file).name for file in weight_map.values()})
    tensors: dict[str, Callable[[], np.ndarray]] = {}
    for file in files:
        path = directory / file
        if not path.is_file():
            raise UserError(f"{path}: missing; get the whole model directory")
        try:
            opened = safe_open(path, framework="np")
            tensors.update({name: functools.partial(opened.get_tensor, name) for name in opened.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None
    return tensors


def _take(
    tensors: dict[str, Callable[[], np.ndarray]], name: str, path: str, target: np.ndarray, directory: Path
) -> None:
    """Moves a tensor into `target`, float32 in our layout, checked."""
    if name not in tensors:
        raise UserError(f"{directory}: tensor {name} is missing; get the whole model directory")
    tensor = tensors.pop(name)()
    expected = to_torch(path, np.broadcast_to(np.int8(0), target.shape)).shape
    if tensor.shape != expected:
        raise UserError(
            f"{directory}: tensor {name} has shape {tensor.shape}, config.json says {expected}; get a good copy"
        )
    if tensor.dtype not in DTYPES.values():
        raise UserError(
            f"{directory}: tensor {name} is {tensor.dtype}; only {', '.join(DTYPES)} can be read: convert it"
        )
    target[...] = from_torch(path, tensor, target.shape)
    if not np.isfinite(target).all():
        raise UserError(f"{directory}: tensor {name} holds values that are not finite; get a good copy")


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
