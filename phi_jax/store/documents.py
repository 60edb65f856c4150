"""Documents: Parquet parts of rows (id, text, source, path, license, language) and columns that stages add.

The id is the hash of the text. A part is written whole or not at all, so a stage resumes at the first missing one.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils.epath import Path, PathLike

from phi_jax.errors import UserError
from phi_jax.progress import Progress
from phi_jax.store.artifact import Draft, atomic_path
from phi_jax.store.cores import cores, spread, workers
from phi_jax.store.rows import Row, opened_parquet


def text_field(name: str) -> pa.Field:
    """A column of texts, of which none is null."""
    return pa.field(name, pa.string(), nullable=False)


SCHEMA = pa.schema(
    [
        text_field("id"),
        text_field("text").with_type(pa.large_string()),
        text_field("source"),  # e.g. "stdlib 3.11.7", "numpy 2.4.6", a directory
        text_field("path"),  # within the source
        ("license", pa.string()),  # as the source's metadata names it; null where it names none
        text_field("language"),
    ]
)

_FOOTER = b"phi_jax"
# Of parts on the disk: what is smaller is done before another process has started (0.6 s).
_WORTH_PROCESSES = 1 << 20


def document_id(text: str) -> str:
    """The first 128 bits of the SHA-256 of the text in UTF-8, as 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def part_path(directory: PathLike, index: int) -> Path:
    """Where part `index` lies."""
    return Path(directory) / f"part-{index:05d}.parquet"


def uniform(identifier: str, salt: str) -> float:
    """A number from 0 to below 1 that depends on identifier and salt alone: for samples and splits by hash.

    The identifier is hashed again: two samples with different salts are independent of each other.
    """
    return int(hashlib.sha256(f"{salt} {identifier}".encode()).hexdigest()[:8], 16) / 2**32


class Totals(NamedTuple):
    """What a document set holds: rows, UTF-8 bytes of text, and the digest of its rows in any order and any cut."""

    rows: int
    bytes: int
    digest: str  # SHA-256, hex


def write_part(directory: PathLike, index: int, rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> None:
    """Writes one part atomically; makes the directory where it is missing. The part's counts and the sum of its rows'
    hashes go into its footer; see `totals`.
    """
    total = 0
    for row in rows:
        line = json.dumps({n: row.get(n) for n in schema.names}, sort_keys=True, ensure_ascii=False, default=str)
        total += int.from_bytes(hashlib.sha256(line.encode(errors="surrogatepass")).digest())
    size = sum(len(row["text"].encode()) for row in rows) if "text" in schema.names else 0
    footer = json.dumps({"rows": len(rows), "bytes": size, "hashes": f"{total % 2**256:064x}"})
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({_FOOTER: footer}))
    Path(directory).mkdir(parents=True, exist_ok=True)
    with atomic_path(part_path(directory, index)) as path, path.open("wb") as file:
        pq.write_table(table, file, compression="zstd")


def write_parts(
    directory: PathLike,
    count: int,
    make: Callable[[int], Iterable[Row]],
    schema: pa.Schema = SCHEMA,
    *,
    label: str,
    apart: Sequence[Path] = (),
    share: slice = slice(None),
) -> None:
    """Writes the parts 0 to count - 1 that are not there yet; a killed stage goes on at the first missing one.

    make: the rows of a part, which must be a function of its index alone. label: what the progress is called. apart:
    the files that `make` reads, where it may be pickled: if they are worth it, it runs on all cores; see `spread`.
    share: which parts are this process's to write, where several write them.
    """
    missing = [index for index in range(count)[share] if not part_path(directory, index).exists()]
    processes = workers(cores()) if sum(path.stat().length for path in apart) > _WORTH_PROCESSES else 1
    with Progress(label, count, "parts") as bar:
        bar.skip(count - len(missing))
        for _ in spread(functools.partial(_make_part, directory, make, schema), missing, processes, label=label):
            bar.advance(1)


def _make_part(directory: PathLike, make: Callable[[int], Iterable[Row]], schema: pa.Schema, index: int) -> None:
    write_part(directory, index, list(make(index)), schema)


def totals(directory: PathLike) -> Totals:
    """Counts and digest of a document set, from the parts' footers: no row is read.

    The digest is over the sum of the rows' hashes modulo 2**256, so it depends neither on the order of the rows nor on
    how they are cut into parts. Raises UserError for a part that is damaged or that `write_part` did not write.
    """
    rows = size = total = 0
    for path in parts(directory):
        footer = (schema_of(path).metadata or {}).get(_FOOTER)
        if footer is None:
            raise UserError(f"{path}: was not written by phi-jax; name it in config.collect.sources")
        found = json.loads(footer)
        rows, size, total = rows + found["rows"], size + found["bytes"], total + int(found["hashes"], 16)
    return Totals(rows, size, hashlib.sha256(f"{rows} {total % 2**256:064x}".encode()).hexdigest())


def schema_of(path: PathLike) -> pa.Schema:
    """The columns of one Parquet file, with what its footer says. Raises UserError for a damaged one."""
    with opened_parquet(path) as file:
        return file.schema_arrow


def add_output(draft: Draft, name: str) -> Totals:
    """Declares the document set `name` as an output of the stage."""
    found = totals(draft.directory / name)
    draft.add_output(name, name, kind="documents", digest=found.digest, rows=found.rows, text_bytes=found.bytes)
    return found


def parts(directory: PathLike) -> list[Path]:
    """The parts of a document set, in order. Raises UserError where there is none."""
    found = sorted(Path(directory).glob("part-*.parquet"))
    if not found:
        raise UserError(f"{directory}: holds no part-*.parquet; name the directory of a document set")
    return found


def read(directory: PathLike, columns: Sequence[str] = ("id", "text")) -> Iterator[Row]:
    """Rows in part order, a batch in memory at a time.

    Raises UserError naming the file for a part that is damaged or lacks a column.
    """
    for path in parts(directory):
        yield from read_part(path, columns)


def read_part(path: PathLike, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of one Parquet file; errors as in `read`."""
    with opened_parquet(path) as file:
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise UserError(f"{path}: has no column {missing[0]!r}; documents need {', '.join(SCHEMA.names)}")
        for batch in file.iter_batches(batch_size=512, columns=list(columns)):
            yield from batch.to_pylist()
