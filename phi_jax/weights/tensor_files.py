"""A model's tensors in safetensors files: one, or several with an index."""

import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401, by which numpy has bfloat16
import numpy as np

from phi_jax.errors import UserError
from phi_jax.store.artifact import Json, write_json
from phi_jax.store.rows import read_object

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD_BYTES = 5_000_000_000  # of one file at most; what transformers 4 writes
CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Stored(NamedTuple):
    """A tensor in a file, as the file's header has it. dtype: as safetensors calls it, e.g. "BF16"."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def open_tensors(directory: Path) -> dict[str, Stored]:
    """Name -> tensor, of all shards; headers alone are read here.

    Where there is an index, it says which shard a tensor is taken from. Raises UserError for a file that is missing or
    damaged.
    """
    if not (directory / INDEX).is_file():
        return _open_file(directory / WEIGHTS)
    shard_of = read_object(directory / INDEX).get("weight_map")
    if not (
        isinstance(shard_of, dict)
        and shard_of
        and all(isinstance(file, str) and file.isprintable() for file in shard_of.values())
    ):
        raise UserError(f"{directory / INDEX}: has no weight_map of names of files; get a good copy")
    names = {file: Path(file).name for file in shard_of.values()}  # a path leads nowhere else
    shards = {name: _open_file(directory / name) for name in sorted(names.values())}
    if lost := [name for name, file in shard_of.items() if name not in shards[names[file]]]:
        raise UserError(
            f"{directory / INDEX}: places tensor {lost[0]!r} in {shard_of[lost[0]]!r}, where it is not; "
            "get a good copy of all files, of one version"
        )
    return {name: shards[names[file]][name] for name, file in shard_of.items()}


def _open_file(path: Path) -> dict[str, Stored]:
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):  # unlike Path's, false for a name that is too long
        remedy = "get the whole model directory"
        if any(path.parent.glob("pytorch_model*.bin*")):
            remedy = (
                "pytorch_model.bin is not read, since a pickle can run code: if you trust it, make safetensors of it "
                f"by transformers.AutoModelForCausalLM.from_pretrained('{path.parent}').save_pretrained('NEW_PLACE')"
            )
        raise UserError(f"{path}: missing; {remedy}")
    try:
        opened = safe_open(path, framework="np")
        headers = {name: opened.get_slice(name) for name in list(opened.keys())}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None
    return {
        name: Stored(tuple(header.get_shape()), header.get_dtype(), functools.partial(opened.get_tensor, name))
        for name, header in headers.items()
    }


def write_tensors(
    directory: Path, shapes: Mapping[str, Sequence[int]], dtype: np.dtype, tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes safetensors files of SHARD_BYTES at most, unless one tensor is larger.

    tensors: (name, array of `dtype`) of each in `shapes`, in any order. Each goes to its place in its file at once; the
    library wants a whole file in memory.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    plan = split_state_dict_into_shards_factory(
        sizes, get_storage_size=int, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_BYTES
    )
    places: dict[str, tuple[Path, int]] = {}
    for file, names in plan.filename_to_tensors.items():
        # Transformers 4 refuses a file without this metadata.
        about: Json = {"__metadata__": {"format": "pt"}}
        ends = [0, *itertools.accumulate(sizes[name] for name in names)]
        for name, offsets in zip(names, itertools.pairwise(ends), strict=True):
            about[name] = {"dtype": CODES[dtype.name], "shape": shapes[name], "data_offsets": offsets}
        header = json.dumps(about).encode()
        header += b" " * (-len(header) % 8)
        (directory / file).write_bytes(len(header).to_bytes(8, "little") + header)
        places |= {name: (directory / file, 8 + len(header) + end) for name, end in zip(names, ends, strict=False)}
    for name, tensor in tensors:
        path, offset = places.pop(name)
        with path.open("r+b") as opened:
            opened.seek(offset)
            opened.write(tensor.tobytes())
    if places:
        raise ValueError(f"{directory}: no values were given for {', '.join(places)}")
    if plan.is_sharded:
        write_json(directory / INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
