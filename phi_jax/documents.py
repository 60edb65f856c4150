"""Documents: Parquet parts of rows (id, text, source, path, license, language) and columns that stages add.

The id is the hash of the text. A part is written whole or not at all, so a stage resumes at the first missing one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax.artifact import Artifact, atomic_path
from phi_jax.errors import UserError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # e.g. "stdlib 3.11.7", "numpy 2.4.6", a directory
        pa.field("path", pa.string(), nullable=False),  # within the source
        pa.field("license", pa.string()),  # as the source's metadata names it; null where it names none
        pa.field("language", pa.string(), nullable=False),
    ]
)

# How far a text is from people's (tokens/generations.py); null = unknown. A set without this column, such as what
# `collect` takes, is held for people's.
GENERATION = pa.field("generation", pa.int8())

Row = dict[str, Any]


def document_id(text: str) -> str:
    """The first 128 bits of the SHA-256 of the text in UTF-8, as 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def part_path(directory: epath.PathLike, index: int) -> epath.Path:
    """Where part `index` lies."""
    return epath.Path(directory) / f"part-{index:05d}.parquet"


def write_part(directory: epath.PathLike, index: int, rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> None:
    """Writes one part atomically."""
    with atomic_path(part_path(directory, index)) as path, path.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file, compression="zstd")


def parts(directory: epath.PathLike) -> list[epath.Path]:
    """The parts of a document set, in order. Raises UserError where there is none."""
    found = sorted(epath.Path(directory).glob("part-*.parquet"))
    if not found:
        raise UserError(f"{directory}: holds no part-*.parquet; name the directory of a document set")
    return found


def read(
    directory: epath.PathLike, columns: Sequence[str] = ("id", "text"), defaults: Mapping[str, Any] | None = None
) -> Iterator[Row]:
    """Rows in part order, a batch in memory at a time. defaults: more columns, with the value where a part lacks one.

    Raises UserError naming the file for a part that is damaged or lacks a column.
    """
    for path in parts(directory):
        yield from read_part(path, columns, defaults)


def read_part(path: epath.PathLike, columns: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Iterator[Row]:
    """Rows of one Parquet file; defaults and errors as in `read`."""
    defaults = defaults or {}
    try:
        with epath.Path(path).open("rb") as handle:
            file = pq.ParquetFile(handle)
            names = file.schema_arrow.names
            missing = [c for c in columns if c not in names]
            if missing:
                raise UserError(f"{path}: has no column {missing[0]!r}; documents need {', '.join(SCHEMA.names)}")
            there = [*columns, *(c for c in defaults if c in names)]
            for batch in file.iter_batches(batch_size=512, columns=there):
                yield from ({**defaults, **row} for row in batch.to_pylist())
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({error}); write it again") from None


def document_set(source: Artifact, name: str) -> tuple[epath.Path, int]:
    """(directory, UTF-8 bytes of text) of the set `name` of an artifact that holds several, or of its only one."""
    if name in source.manifest["outputs"]:
        return source.path(name), source.facts[name]["bytes"]
    return source.path("documents"), source.facts["bytes"]


def count(directory: epath.PathLike) -> int:
    """Rows in all parts."""
    return sum(pq.ParquetFile(path.open("rb")).metadata.num_rows for path in parts(directory))


def digest(directory: epath.PathLike) -> str:
    """SHA-256 (hex) over the rows sorted by id and content: the same however they are cut into parts.

    Only the rows' hashes are held: 32 bytes a document.
    """
    hashes = []
    for path in parts(directory):
        names = pq.ParquetFile(path.open("rb")).schema_arrow.names
        for row in read_part(path, names):
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
            hashes.append(hashlib.sha256(line.encode(errors="surrogatepass")).digest())
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()
