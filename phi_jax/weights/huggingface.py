"""Directories in Hugging Face's format, written and read. No torch: numpy and safetensors suffice.

Both ways go by the name map of an architecture (phi.py, codegen.py), one parameter in memory at a time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phi_jax.errors import UserError
from phi_jax.model.phi import Params, PhiConfig, abstract_params
from phi_jax.store.artifact import write_atomic, write_json
from phi_jax.weights.architecture import (
    DTYPES,
    Architecture,
    Tensor,
    from_torch,
    leaf_at,
    leaves_of,
    put_leaf,
    read_json,
    to_torch,
)
from phi_jax.weights.codegen_names import CODEGEN
from phi_jax.weights.early import MIXFORMER, PHI_MSFT
from phi_jax.weights.phi_names import PHI
from phi_jax.weights.tensor_files import SHARD_BYTES, TensorWriter, open_tensors, sync

ARCHITECTURES = {a.model_type: a for a in (PHI, CODEGEN, PHI_MSFT, MIXFORMER)}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
MODEL_CARD = "README.md"
ReadLeaf = Callable[[str], np.ndarray]  # path of a parameter, e.g. "layers/mlp/fc1/kernel" -> its array of all layers


def tensors_of(
    read_leaf: ReadLeaf, config: PhiConfig, architecture: Architecture = PHI
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of a whole model as the architecture's files have them, each parameter read once.

    Raises UserError where a parameter that the architecture has none of is not zero.
    """
    for path in architecture.absent:
        if np.any(read_leaf(path)):
            raise UserError(
                f"{path} is not zero, and a {architecture.model_type} has no such parameter: it was trained as a phi; "
                "export it as phi"
            )
    for tensor in architecture.tensors:
        values = [np.asarray(read_leaf(path)) for path in tensor.paths]
        layers: Iterator[tuple[Any, ...]] = zip(*values, strict=True) if tensor.in_layers else iter([tuple(values)])
        for layer, parts in enumerate(layers):
            torch_parts = [to_torch(path, part) for path, part in zip(tensor.paths, parts, strict=True)]
            yield tensor.named(layer, config), tensor.fuse(torch_parts, config)


def export_model(
    read_leaf: ReadLeaf,
    config: PhiConfig,
    directory: Path,
    *,
    tokenizer_directory: Path | None,
    end_of_text_id: int,
    dtype: str = "float32",
    architecture: Architecture = PHI,
    card: str = "",
    add_files: Callable[[Path], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that transformers 4 and 5 load: weights, configs, tokenizer files, model card.

    read_leaf: float32 arrays as abstract_params(config) describes them. vocab_size may exceed the tokenizer's.
    tokenizer_directory: where TOKENIZER_FILES are copied from, as many as are there; None = weights only.
    end_of_text_id: written as bos and eos id, which transformers 5 otherwise takes for 1 and 2.
    card: text of README.md; "" = none. add_files: puts more into the directory before it appears in its place.
    Raises UserError where `directory` exists and is not an empty directory, for an unknown dtype, for a value that is
    not finite or that the dtype cannot hold, and for a model that the architecture cannot; nothing is left
    half-written.
    """
    directory = Path(directory)
    check_target(directory)
    if dtype not in DTYPES:
        raise UserError(f"config.export.dtype={dtype!r}: unknown; use one of {', '.join(DTYPES)}")
    if architecture.write_config is None:
        raise ValueError(f"{architecture.model_type}: such models are only read")
    config_json = architecture.write_config(config, end_of_text_id, dtype)
    temporary = directory.parent / f".tmp-{directory.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with TensorWriter(
            temporary, tensor_shapes(config, architecture), DTYPES[dtype], shard_bytes=shard_bytes
        ) as writer:
            for name, tensor in tensors_of(read_leaf, config, architecture):
                writer.write(name, _cast(name, tensor, dtype))
        write_json(temporary / "config.json", config_json)
        ids = {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
        write_json(temporary / "generation_config.json", {"_from_model_config": True, **ids})
        if tokenizer_directory is not None:
            for file in (Path(tokenizer_directory) / name for name in TOKENIZER_FILES):
                if file.is_file():
                    shutil.copyfile(file, temporary / file.name)
        if card:
            write_atomic(temporary / MODEL_CARD, card)
        if add_files is not None:
            add_files(temporary)
        sync(temporary)
        os.rename(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_target(path: Path) -> None:
    """Raises UserError where something stands at the place that is to be written; an empty directory may."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: exists already; remove it, or name another place")


def tensor_shapes(config: PhiConfig, architecture: Architecture = PHI) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, in the order of the files: the layers one after the other, then the rest."""
    leaves = dict(leaves_of(abstract_params(config)))
    shapes = {tensor: _shape(tensor, config, leaves) for tensor in architecture.tensors}
    layers = {
        tensor.named(layer, config): shape
        for layer in range(config.num_layers)
        for tensor, shape in shapes.items()
        if tensor.in_layers
    }
    return {**layers, **{tensor.named(0, config): shape for tensor, shape in shapes.items() if not tensor.in_layers}}


def _shape(tensor: Tensor, config: PhiConfig, leaves: Mapping[str, Any]) -> tuple[int, ...]:
    first = 1 if tensor.in_layers else 0
    return tensor.shape([leaves[path].shape[first:] for path in tensor.paths], config)


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = tensor.astype(DTYPES[dtype], copy=False)
    if not np.isfinite(cast).all():
        if not np.isfinite(tensor).all():
            raise UserError(f"tensor {name} holds values that are not finite: export an earlier checkpoint")
        raise UserError(f"tensor {name} does not fit {dtype}: export as bfloat16 or float32")
    return cast


# --- Reading ---------------------------------------------------------------------------------------------------


def read_architecture(directory: Path) -> tuple[Architecture, PhiConfig]:
    """What config.json says. Raises UserError where it is missing or phi.forward computes something else."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"{directory}: no config.json; name a directory in Hugging Face's format")
    content = read_json(path)
    architecture = ARCHITECTURES.get(str(content.get("model_type")))
    if architecture is None:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise UserError(f"{path}: model_type is {content.get('model_type')!r}; only {known} can be read")
    try:
        return architecture, architecture.read_config(path, content)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None


def load_directory(directory: Path) -> tuple[Params, PhiConfig]:
    """(parameters as float32 numpy arrays, shape) of a Phi or CodeGen directory.

    The tree is that of abstract_params(config); float16 and bfloat16 are widened, exactly. One tensor is read at a
    time. Raises UserError for another architecture, for a missing, unknown, misshapen or non-finite tensor, and for
    a dtype that is none of DTYPES.
    """
    directory = Path(directory)
    architecture, config = read_architecture(directory)
    tensors = open_tensors(directory)
    leaves = dict(leaves_of(abstract_params(config)))
    params: Params = {}
    for path in leaves:  # in the tree's own order
        put_leaf(params, path, np.zeros(leaves[path].shape, np.float32))
    for tensor in architecture.tensors:
        shape = _shape(tensor, config, leaves)
        targets = [leaf_at(params, path) for path in tensor.paths]
        for layer in range(config.num_layers if tensor.in_layers else 1):
            value = _take(tensors, tensor.named(layer, config), shape, directory)
            for path, part, target in zip(tensor.paths, tensor.split(value, config), targets, strict=True):
                place = target[layer] if tensor.in_layers else target
                place[...] = from_torch(path, part, place.shape)
    unknown = sorted(name for name in tensors if not architecture.buffers.fullmatch(name))
    if unknown:
        raise UserError(
            f"{directory}: tensor {unknown[0]} belongs to no {architecture.model_type} model of this config; "
            "is it another model?"
        )
    return params, config


def _take(
    tensors: dict[str, Callable[[], np.ndarray]], name: str, shape: tuple[int, ...], directory: Path
) -> np.ndarray:
    """Removes a tensor from those that are left to read, and reads it, checked, as float32."""
    if name not in tensors:
        raise UserError(f"{directory}: tensor {name} is missing; get the whole model directory")
    tensor = tensors.pop(name)()
    if tensor.shape != shape:
        raise UserError(
            f"{directory}: tensor {name} has shape {tensor.shape}, config.json says {shape}; get a good copy"
        )
    if tensor.dtype not in DTYPES.values():
        raise UserError(
            f"{directory}: tensor {name} is {tensor.dtype}; only {', '.join(DTYPES)} can be read: convert it"
        )
    wide = tensor.astype(np.float32, copy=False)
    if not np.isfinite(wide).all():
        raise UserError(f"{directory}: tensor {name} holds values that are not finite; get a good copy")
    return wide
