"""pytorch_model.bin without torch and without running what a pickle holds: its tensors, and nothing else.

A pickle is a program. Of the names that it may call, this knows the handful by which torch.save describes a tensor in
a dictionary; any other is refused before it is looked up. What those names give it is nothing that it could change:
strings, tuples, functions made anew. Format (torch/serialization.py, since torch 1.6): a zip of
`data.pkl`, in which a tensor is a place in a storage, and of the storages, `data/0` and so on, as they lie in memory.
"""

from __future__ import annotations

import collections
import functools
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from phi_jax.errors import UserError

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Stored(NamedTuple):
    """Where a tensor lies: a storage's dtype and key, and the numbers in it that are the tensor's."""

    dtype: np.dtype
    key: str
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()  # in numbers


def open_pickled(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Name -> a function that reads that tensor. Raises UserError for what is damaged, or more than tensors by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            (program,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            content = _Tensors(archive.open(program), path).load()
    except UserError:
        raise
    except zipfile.BadZipFile:
        raise UserError(
            f"{path}: no zip archive: damaged, or saved by torch before 1.6; get a good copy, or save it as safetensors"
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"{path}: cannot be read ({error}); get a good copy, or save it as safetensors") from None
    if not isinstance(content, dict) or not all(isinstance(x, _Stored) for x in content.values()):
        raise UserError(f"{path}: not a dictionary of tensors; save the model's state_dict, best as safetensors")
    folder = program.removesuffix("data.pkl")
    return {name: functools.partial(_read, path, f"{folder}data/{x.key}", x) for name, x in content.items()}


def _read(path: Path, member: str, stored: _Stored) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            storage = np.frombuffer(archive.read(member), stored.dtype)
        last = stored.offset + sum((n - 1) * s for n, s in zip(stored.shape, stored.strides, strict=True))
        if not 0 <= stored.offset <= last < len(storage) or min(stored.strides, default=0) < 0:
            raise ValueError(f"{member} holds {len(storage)} numbers, too few")
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None
    strides = [n * stored.dtype.itemsize for n in stored.strides]
    return np.ascontiguousarray(
        np.lib.stride_tricks.as_strided(storage[stored.offset :], stored.shape, strides, writeable=False)
    )


class _Tensors(pickle.Unpickler):
    """An unpickler that knows how torch.save writes tensors, and no other name."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return name
        raise UserError(
            f"{self._path}: wants to call {module}.{name}, which no tensor needs: it was not run; "
            "get the model as safetensors"
        )

    def persistent_load(self, pid: Any) -> _Stored:
        _, kind, key, _, _ = pid
        return _Stored(_STORAGES[kind], str(key))


def _tensor(storage: _Stored, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Stored:
    return storage._replace(offset=int(offset), shape=tuple(map(int, shape)), strides=tuple(map(int, strides)))
