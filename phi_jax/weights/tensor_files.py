"""A model's tensors in safetensors files: one, or several with an index."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from phi_jax.errors import UserError
from phi_jax.store.artifact import write_json
from phi_jax.weights.architectures.architecture import read_json

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD_BYTES = 5_000_000_000  # of one file at most; what transformers 4 writes
ReadTensor = Callable[[], np.ndarray]


def open_tensors(directory: Path) -> dict[str, ReadTensor]:
    """Name -> a function that reads that tensor, of all shards; headers alone are read here.

    Where there is an index, it says which shard a tensor is taken from. Raises UserError for a file that is missing or
    damaged.
    """
    directory = Path(directory)
    if not (directory / INDEX).is_file():
        return _open_file(directory / WEIGHTS)
    shard_of = read_json(directory / INDEX).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise UserError(f"{directory / INDEX}: has no weight_map; get a good copy")
    names = {file: Path(str(file)).name for file in shard_of.values()}  # a path leads nowhere else
    shards = {name: _open_file(directory / name) for name in sorted(names.values())}
    if lost := [name for name, file in shard_of.items() if name not in shards[names[file]]]:
        raise UserError(
            f"{directory / INDEX}: places tensor {lost[0]} in {shard_of[lost[0]]}, where it is not; "
            "get a good copy of all files, of one version"
        )
    return {name: shards[names[file]][name] for name, file in shard_of.items()}


def _open_file(path: Path) -> dict[str, ReadTensor]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        remedy = "get the whole model directory"
        if any(path.parent.glob("pytorch_model*.bin*")):
            remedy = (
                "pytorch_model.bin is not read, since a pickle can run code: where you trust it, make safetensors of it "
                f"by transformers.AutoModelForCausalLM.from_pretrained('{path.parent}').save_pretrained('NEW_PLACE')"
            )
        raise UserError(f"{path}: missing; {remedy}")
    try:
        opened = safe_open(path, framework="np")
        return {name: functools.partial(opened.get_tensor, name) for name in list(opened.keys())}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None


def write_tensors(directory: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes safetensors files of SHARD_BYTES at most, unless one tensor is larger; one file is in memory at a time."""
    from safetensors.numpy import save_file

    held: dict[str, np.ndarray] = {}
    shards: list[list[str]] = []
    total = 0

    def write_shard() -> None:
        # Transformers 4 refuses a file without this metadata.
        save_file(held, directory / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and sum(other.nbytes for other in held.values()) + tensor.nbytes > SHARD_BYTES:
            write_shard()
        # The library writes the buffer of a transposed view as it lies, not as it reads.
        held[name] = np.ascontiguousarray(tensor)
        total += tensor.nbytes
    write_shard()
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    else:
        files = [WEIGHTS]
    for number, file in enumerate(files):
        (directory / f"{number}.safetensors").rename(directory / file)
