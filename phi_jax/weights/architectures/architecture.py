"""What an architecture's files say about our parameters: one map of names, read in both directions.

Idea of a flat map read both ways: torchtitan's state_dict_adapter. Torch's matrices are [out, in], ours [in, out] with
heads as an axis of their own.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
Shape = tuple[int, ...]


def _only(tensors: Sequence[np.ndarray], config: PhiConfig) -> np.ndarray:
    return tensors[0]


def _alone(tensor: np.ndarray, config: PhiConfig) -> tuple[np.ndarray, ...]:
    return (tensor,)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint, or one of each layer.

    name: in the file, a format of {layer}. paths: our parameters that it holds. fuse: those of one layer, each as torch
    has it (a matrix is [out, in], the rest one axis), into the tensor; split: the inverse.
    """

    name: str
    paths: tuple[str, ...]
    fuse: Callable[[Sequence[np.ndarray], PhiConfig], np.ndarray] = _only
    split: Callable[[np.ndarray, PhiConfig], tuple[np.ndarray, ...]] = _alone

    @property
    def in_layers(self) -> bool:
        return "{layer}" in self.name

    def shape(self, parts: Sequence[Shape], config: PhiConfig) -> Shape:
        """In the file; parts: shapes of one layer's parameters in our layout."""
        empty = [np.broadcast_to(np.int8(0), shape) for shape in parts]
        return self.fuse([to_torch(p, x) for p, x in zip(self.paths, empty, strict=True)], config).shape


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A family of published models that our phi computes.

    absent: parameters of ours that it has none of: zeros when read, and an error when written unless they are zero.
    buffers: names of constants that old checkpoints hold beside the weights. read_config raises UserError for a
    config.json that means another function than phi.forward; its Path is for messages.
    """

    model_type: str  # as config.json calls it
    tensors: tuple[Tensor, ...]
    absent: tuple[str, ...]
    buffers: re.Pattern[str]
    read_config: Callable[[Path, Mapping[str, Any]], PhiConfig]
    write_config: Callable[[PhiConfig, int, str], dict[str, Any]]


def one_to_one(names: Mapping[str, str]) -> tuple[Tensor, ...]:
    """Tensors that hold one parameter each, of {our path: name in the file}."""
    return tuple(Tensor(name, (path,)) for path, name in names.items())


def to_torch(path: str, value: np.ndarray) -> np.ndarray:
    """One layer's array in our layout -> as torch has it; a view where it can be."""
    if path.endswith("kernel"):
        inputs = 2 if path.endswith("out/kernel") else 1  # axes that are summed over: heads and head_dim, or the width
        return value.reshape(int(np.prod(value.shape[:inputs])), -1).T
    return value if path == "embed/tokens" else value.reshape(-1)


def from_torch(path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
    """The inverse of `to_torch`; `shape` is one layer's shape in our layout."""
    return (tensor.T if path.endswith("kernel") else tensor).reshape(shape)


# --- config.json -----------------------------------------------------------------------------------------------


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """A JSON object. Raises UserError where the file holds none."""
    try:
        content = json.loads(epath.Path(path).read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); get a good copy") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; get a good copy")
    return content


def require_sizes(path: Path, config: Mapping[str, Any], fields: Sequence[str]) -> None:
    """Raises UserError for the first field that is no whole number from 1."""
    for field in fields:
        value = config.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{path}: {field} is {value!r}; it must be a whole number from 1; get a good copy")


def require_values(path: Path, config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises UserError for the first field whose value is none of those allowed; absent or null always is."""
    for field, values in allowed.items():
        value = config.get(field)
        if value is not None and value not in values:
            has = f"only {values[0]!r}" if values else "none"
            raise UserError(f"{path}: {field} is {value!r}, the phi model here has {has}; use another model")
