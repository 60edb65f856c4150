"""A model's tensors in safetensors files: one, or several with an index.

Written in a stream: safetensors' own writer wants a whole file's tensors in memory at once, so the header is laid out
here (format: an 8-byte little-endian header size, the header as JSON, the bytes of the tensors without gaps).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import ml_dtypes
import numpy as np

from phi_jax.errors import UserError
from phi_jax.store.artifact import write_json
from phi_jax.weights.architecture import Shape, read_json
from phi_jax.weights.pickled import open_pickled

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHARD_BYTES = 5_000_000_000  # of one file at most; what transformers 4 writes
_CODES = {
    np.dtype(np.float32): "F32",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.float16): "F16",
}
ReadTensor = Callable[[], np.ndarray]


def open_tensors(directory: Path) -> dict[str, ReadTensor]:
    """Name -> a function that reads that tensor, of all shards; headers alone are read here.

    Of safetensors, or of pytorch_model.bin where there are none. Raises UserError for a file that is missing or
    damaged, and where index and shards contradict each other.
    """
    directory = Path(directory)
    found = [pair for pair in ((WEIGHTS, INDEX), _PICKLES) if any((directory / file).is_file() for file in pair)]
    single, index = found[0] if found else (WEIGHTS, INDEX)
    shard_of: dict[str, str] | None = None
    files = [single]
    if (directory / index).is_file():
        shard_of = read_json(directory / index).get("weight_map")
        if not isinstance(shard_of, dict) or not shard_of:
            raise UserError(f"{directory / index}: has no weight_map; get a good copy")
        files = sorted({Path(file).name for file in shard_of.values()})
    tensors: dict[str, ReadTensor] = {}
    for file in files:
        path = directory / file
        if not path.is_file():
            raise UserError(f"{path}: missing; get the whole model directory")
        opened = open_pickled(path) if single == _PICKLES[0] else _open_safetensors(path)
        for name in opened:
            if shard_of is not None and shard_of.get(name) != file:
                raise UserError(
                    f"{path}: holds tensor {name}, which {index} places in {shard_of.get(name, 'no shard')}; "
                    "get a good copy of all files, of one version"
                )
        tensors |= opened
    for name, file in sorted((shard_of or {}).items()):
        if name not in tensors:
            raise UserError(
                f"{directory / file}: lacks tensor {name}, which {index} places there; "
                "get a good copy of all files, of one version"
            )
    return tensors


def _open_safetensors(path: Path) -> dict[str, ReadTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="np")
        return {name: functools.partial(opened.get_tensor, name) for name in list(opened.keys())}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None


class TensorWriter:
    """Writes tensors, in any order, into the shards of a new directory; leaving the context completes the files.

    shapes: of all tensors, in the order in which they are to lie in the files. shard_bytes: of a file at most, unless
    one tensor is larger. Raises ValueError for a tensor that was not announced, and for one that was and never came.
    """

    def __init__(
        self, directory: Path, shapes: Mapping[str, Shape], dtype: np.dtype, *, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self._dtype = dtype
        self._shapes = dict(shapes)
        self._places: dict[str, tuple[Path, int]] = {}  # file, first byte
        shards = self._cut(shard_bytes)
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        names = names if len(shards) > 1 else [WEIGHTS]
        for name, shard in zip(names, shards, strict=True):
            self._lay_out(Path(directory) / name, shard)
        if len(shards) > 1:
            total = sum(map(self._bytes, self._shapes))
            weight_map = {tensor: path.name for tensor, (path, _) in self._places.items()}
            write_json(Path(directory) / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})

    def write(self, name: str, tensor: np.ndarray) -> None:
        """Puts a tensor of the writer's dtype in its place."""
        if tensor.shape != self._shapes.get(name) or tensor.dtype != self._dtype:
            raise ValueError(f"tensor {name}: {tensor.dtype}{tensor.shape} was not announced")
        path, first_byte = self._places.pop(name)
        with open(path, "r+b") as file:
            file.seek(first_byte)
            # The buffer of a transposed view would be written as it lies; bfloat16 has no buffer protocol.
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._places:
            raise ValueError(f"tensor {min(self._places)} was announced and never written")

    def _bytes(self, name: str) -> int:
        return int(np.prod(self._shapes[name])) * self._dtype.itemsize

    def _cut(self, shard_bytes: int) -> list[list[str]]:
        shards: list[list[str]] = [[]]
        size = 0
        for name in self._shapes:
            if shards[-1] and size + self._bytes(name) > shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += self._bytes(name)
        return shards

    def _lay_out(self, path: Path, names: list[str]) -> None:
        """Writes a shard's header, and gives the file its size."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
        end = 0
        for name in names:
            begin, end = end, end + self._bytes(name)
            header[name] = {
                "dtype": _CODES[self._dtype],
                "shape": list(self._shapes[name]),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the format asks
        data = 8 + len(text)
        for name in names:
            self._places[name] = (path, data + header[name]["data_offsets"][0])  # type: ignore[index]
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(data + end)


def sync(directory: Path) -> None:
    """Has the disk hold every file of a directory, before a rename says that they are whole."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
