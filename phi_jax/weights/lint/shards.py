"""The weight files: whole, in agreement with their index, finite, and no others beside them.

Only headers are read, but for the search for NaN and infinity, which goes through the bytes piece by piece.
transformers 4.57.6 and 5.23 were run on each of these (tests/peers/test_lint_saved.py). MLX is mlx-lm's
`utils.load_model` (every model*.safetensors), TGI `utils/hub.py` and `utils/weights.py` (every *.safetensors, no
name twice), vLLM `filter_duplicate_safetensors_files` (those that the index lists).
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phi_jax.weights.lint.finding import OBJECT, Finding, Kind, error, named, read_object, warning

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# safetensors' name -> torch's name, the unsigned integer of its width, and the bits all set in NaN and infinity.
FLOATS = {
    "F64": ("float64", np.uint64, 0x7FF0000000000000),
    "F32": ("float32", np.uint32, 0x7F800000),
    "BF16": ("bfloat16", np.uint16, 0x7F80),
    "F16": ("float16", np.uint16, 0x7C00),
}
SHARDS = Kind(
    "an object of file names", lambda x: isinstance(x, dict) and all(isinstance(shard, str) for shard in x.values())
)
_PIECE = 1 << 24  # numbers looked at at once


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies."""

    file: str
    dtype: str  # safetensors' name: F32, BF16, F16
    shape: tuple[int, ...]
    start: int  # of its bytes, from the beginning of the file
    stop: int


def lint_shards(directory: Path, findings: list[Finding]) -> dict[str, Tensor] | None:
    """Name -> tensor of the model that transformers reads here; None where it is not whole. Adds findings."""
    present = sorted(p.name for p in directory.glob("*.safetensors"))
    index = read_object(directory / INDEX, findings, {"metadata": OBJECT, "weight_map": SHARDS})
    indexed = (directory / INDEX).is_file()
    if not present and not indexed:
        findings.append(_no_safetensors(directory))
        return None
    listed = _listed(index, findings) if index is not None else {}
    if indexed and not listed and SINGLE not in present:
        return None
    shards = sorted(set(listed.values()))
    read = [SINGLE] if SINGLE in present else shards if indexed else present  # transformers prefers the first
    for shard in shards:
        if shard not in present:
            findings.append(error("shard-missing", INDEX, f"{shard} is not here: every client fails", "get it"))
    headers = {}
    for file in sorted({*read, *shards}):
        if file in present and (header := _header(directory / file, findings)) is not None:
            headers[file] = header
    findings.extend(_metadata({file: metadata for file, (metadata, _) in headers.items()}))
    tensors_of = {file: tensors for file, (_, tensors) in headers.items()}
    if listed and index is not None:
        findings.extend(_against_index(index, listed, tensors_of))
    findings.extend(_other_files(present, read, indexed))
    tensors = {name: tensor for file in read for name, tensor in tensors_of.get(file, {}).items()}
    findings.extend(_not_finite(directory, tensors))
    return tensors if read and all(file in headers for file in read) else None


def _no_safetensors(directory: Path) -> Finding:
    pickles = [name for name in PICKLES if (directory / name).is_file()]
    if not pickles:
        return error("no-weights", SINGLE, "no weights are here: every client fails", "get the whole directory")
    return warning(
        "pickle-only", pickles[0], ["MLX"],
        "weights by pickle only: MLX fails, and who must not run what a pickle holds; lint did not look into it",
        "save it as safetensors",
    )  # fmt: skip


def _header(path: Path, findings: list[Finding]) -> tuple[dict[str, str] | None, dict[str, Tensor]] | None:
    """(metadata, name -> tensor) of a safetensors file, by huggingface/safetensors' README; None where damaged."""
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise ValueError("ends inside its header")
            entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", None)
        tensors = {}
        for name, entry in entries.items():
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = Tensor(path.name, entry["dtype"], tuple(entry["shape"]), start, stop)
        end = max((tensor.stop for tensor in tensors.values()), default=8 + length)
        if end > size:
            raise ValueError(f"{end - size:,} of {end:,} bytes are missing, at the end")
        with safe_open(path, framework="np"):  # what else there is to check of the format
            pass
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as wrong:
        reason = str(wrong).replace("\n", " ")
        findings.append(error("damaged", path.name, f"{reason}: every client fails", "get a good copy"))
        return None
    return metadata, tensors


def _metadata(metadata: Mapping[str, dict[str, str] | None]) -> Iterator[Finding]:
    """`format`, by which transformers 4 knows torch's layout. MLX writes its own word, which is accepted as well."""
    remedy = 'save with metadata {"format": "pt"}'
    if without := [file for file, fields in metadata.items() if fields is None]:
        # Its load_state_dict asked None for "format" (transformers 4.37's source); 4.57 takes None for torch's (run).
        problem = f"{named(without)} without metadata: early transformers 4 (4.37 among them) fails"
        yield warning("metadata", without[0], ["early transformers 4"], problem, remedy)
    for file, fields in metadata.items():
        if fields is not None and fields.get("format") not in ("pt", "mlx"):
            problem = f"metadata has the format {fields.get('format')!r}: transformers 4 fails"
            yield warning("metadata", file, ["transformers 4"], problem, remedy)
            return


def _listed(index: dict[str, Any], findings: list[Finding]) -> dict[str, str]:
    """Name -> shard, of an index."""
    listed: dict[str, str] = index.get("weight_map") or {}
    if not listed:
        findings.append(error("index", INDEX, "has no weight_map: every client fails", "get a good copy"))
    elif index.get("metadata") is None:
        problem = "has no metadata: transformers fails"
        findings.append(warning("index", INDEX, ["transformers"], problem, 'write "metadata": {"total_size": ...}'))
    return listed


def _against_index(
    index: dict[str, Any], listed: dict[str, str], tensors_of: dict[str, dict[str, Tensor]]
) -> Iterator[Finding]:
    holders = collections.defaultdict(list)
    for shard in sorted(set(listed.values())):
        for name in tensors_of.get(shard, {}):
            holders[name].append(shard)
    remedy = "write the index again"
    if moved := [name for name, shard in listed.items() if name in holders and shard not in holders[name]]:
        # Whole-model clients open each shard and take what is in it (both transformers: run).
        name = moved[0]
        problem = f"{named(moved)} lies in {holders[name][0]}, not in {listed[name]}: readers of single tensors fail"
        yield warning("index-tensor", INDEX, ["readers of single tensors"], problem, remedy)
    if unlisted := sorted(set(holders) - set(listed)):
        problem = (
            f"{named(unlisted)} in {holders[unlisted[0]][0]} not listed: transformers 4 takes random numbers instead"
        )
        yield warning("index-tensor", INDEX, ["transformers 4"], problem, remedy)
    if twice := [name for name, shards in holders.items() if len(shards) > 1]:
        problem = f"{named(twice)} in more than one shard: TGI fails, others take either"
        yield warning("tensor-twice", INDEX, ["TGI"], problem, "keep one of them")
    total = sum(t.stop - t.start for tensors in tensors_of.values() for t in tensors.values())
    said = (index.get("metadata") or {}).get("total_size")
    if said is not None and said != total and set(tensors_of) == set(listed.values()):
        # No client here computes with it; that it is wrong tells of an index that belongs to other shards.
        yield warning(
            "total-size", INDEX, ["tools that plan memory"],
            f"total_size is {said}, the tensors take {total}: tools that plan memory by it plan wrongly", remedy,
        )  # fmt: skip


def _other_files(present: list[str], read: list[str], indexed: bool) -> Iterator[Finding]:
    if indexed and SINGLE in present:
        yield warning(
            "two-models", SINGLE, ["transformers", "vLLM", "MLX", "TGI"],
            "lies beside an index of shards: transformers reads this file, vLLM the shards, MLX both, TGI fails",
            "remove what is not the model",
        )  # fmt: skip
    elif read == present and SINGLE not in present and not indexed:
        problem = f"{named(present)} without {INDEX}: transformers finds no weights"
        yield warning("index", present[0], ["transformers"], problem, "get the index")
    elif left := [file for file in present if file not in read]:
        clients = [*(["MLX"] if left[0].startswith("model") else []), "TGI"]
        verb = "read" if len(clients) > 1 else "reads"
        problem = f"{named(left)} is no part of the model: {' and '.join(clients)} {verb} it too"
        yield warning("leftover", left[0], clients, problem, "remove it")


def _not_finite(directory: Path, tensors: dict[str, Tensor]) -> Iterator[Finding]:
    if broken := [name for name, tensor in tensors.items() if not _finite(directory, tensor)]:
        problem = f"NaN or infinity in {named(broken)}: every client computes nonsense"
        yield error("not-finite", tensors[broken[0]].file, problem, "get a good copy")


def _finite(directory: Path, tensor: Tensor) -> bool:
    if tensor.dtype not in FLOATS or not math.prod(tensor.shape):
        return True
    _, unsigned, exponent = FLOATS[tensor.dtype]
    mask = unsigned(exponent)
    bits = np.memmap(directory / tensor.file, unsigned, "r", tensor.start, math.prod(tensor.shape))
    pieces = (bits[i : i + _PIECE] for i in range(0, len(bits), _PIECE))
    return not any(((piece & mask) == mask).any() for piece in pieces)
