"""Files that somebody gives us, opened and read in one way: their rows, and the one form of their texts.

A file of rows is JSON lines, a JSON list of objects (but in a .jsonl), or Parquet; .gz and .zst are unpacked.
"""

import contextlib
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from etils import epath
from etils.epath import PathLike

from phi_jax.errors import UserError, one_line
from phi_jax.store.artifact import is_object_store

Row = dict[str, Any]
# Of files of rows that are looked for in a directory.
ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz")
# What reading a damaged file raises: bogus lengths and bytes, gzip's own errors, and what pyarrow's inherit from.
DAMAGED = (
    OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError, RecursionError,
    NotImplementedError, zlib.error,
)  # fmt: skip
_DEEPEST = 100  # lists and objects in each other; whoever walks through a row may take several frames for each


class Given(NamedTuple):
    """One row as a file has it: strings may hold half a surrogate pair, and what is bytes still is no UTF-8."""

    place: str  # what an error about the row names
    row: Row
    fault: str = ""  # why there is no row
    line: bytes = b""  # of JSON lines


def located(path: PathLike) -> Any:
    """The path in an object store, or on this machine, where epath takes a pipe for a file."""
    return epath.Path(path) if is_object_store(path) else Path(path)


@contextlib.contextmanager
def _reading(path: PathLike) -> Iterator[None]:
    """Raises UserError for what a damaged file raises inside, and for whatever the library of an object store does,
    which says so where it is not installed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not (isinstance(error, DAMAGED) or is_object_store(path)):
            raise
        raise UserError(f"{path}: cannot be read ({one_line(error)}); mend that, or get a good copy") from None


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[IO[bytes]]:
    """A file to be read, unpacked where its name ends in .gz or .zst.

    Raises UserError for what is no regular file, such as a pipe, which might never end, and for what turns out to
    be damaged in the block.
    """
    place = located(path)
    with _reading(path):
        if not place.is_file():
            raise UserError(f"{path}: no such file, or no regular one; name a file that can be read")
        with place.open("rb") as file:
            unpack: Any = {".gz": gzip.open, ".zst": _unpack_zstd}.get(place.suffix.lower())
            yield io.BufferedReader(unpack(file)) if unpack else file


def _unpack_zstd(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(file, "zstd")


def files_below(root: PathLike, endings: Sequence[str]) -> list[epath.Path]:
    """`root`, or what a directory holds that has one of the endings, but for directories; sorted.

    At any depth; of an object store, which asks for every depth again, at the first. Raises UserError as `opened`.
    """
    top = located(root)
    with _reading(root):
        found = [top] if not top.is_dir() else top.iterdir() if is_object_store(root) else top.rglob("*")
        return sorted(file for file in found if file.name.lower().endswith(tuple(endings)) and not file.is_dir())


def named_columns(mapping: Sequence[str], field: str, ours: Sequence[str]) -> dict[str, list[str]]:
    """Our name of a column -> its names in a file, of ("text=problem+solution", "teacher=model").

    Raises UserError naming `field` for what is none of `ours`, or names nothing.
    """
    for one in mapping:
        if not re.fullmatch(rf"({'|'.join(ours)})=[^+]+(\+[^+]+)*", one):
            raise UserError(f"{field}: {one!r}; write NAME=COLUMN or NAME=COLUMN+COLUMN, with {', '.join(ours)}")
    return {name: theirs.split("+") for name, _, theirs in (one.partition("=") for one in mapping)}


def renamed(row: Row, columns: Mapping[str, Sequence[str]]) -> Row:
    """The row with our names beside its own; texts of several columns below each other, None where one is no text."""
    return row | {n: _joined([row[t] for t in theirs]) for n, theirs in columns.items() if {*theirs} <= row.keys()}


def _joined(values: Sequence[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    return "\n".join(v.strip("\n") for v in values) if all(isinstance(v, str) for v in values) else None


def read_object(path: PathLike) -> Row:
    """The JSON object that a file is. Raises UserError where it is none."""
    with opened(path) as file:
        if not isinstance(content := _parsed(file.read()), dict):
            raise ValueError("not a JSON object")
        return content


def is_parquet(path: PathLike) -> bool:
    """Whether a file is to be read as Parquet."""
    return str(path).lower().endswith(".parquet")


def read_rows(path: PathLike, columns: Sequence[str] = ()) -> Iterator[Given]:
    """The rows of a file, or why one is none; blank lines are no rows. columns: of Parquet, () = all.

    Raises UserError for a file that is damaged as a whole.
    """
    if is_parquet(path):
        yield from _rows_of_parquet(path, columns)
        return
    with opened(path) as file:
        if _is_list(path, file):
            for number, row in enumerate(_parsed(file.read()), 1):
                yield _checked(f"{path}: item {number}", row)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                place = f"{path}:{number}"
                try:
                    yield _checked(place, _parsed(line), line)
                except DAMAGED as error:
                    yield Given(place, {}, f"not JSON ({one_line(error)})", line)


def count_rows(path: PathLike) -> int:
    """How many rows `read_rows` gives."""
    if is_parquet(path):
        with opened_parquet(path) as table:
            return table.metadata.num_rows
    with opened(path) as file:
        return len(_parsed(file.read())) if _is_list(path, file) else sum(1 for line in file if line.strip())


@contextlib.contextmanager
def opened_parquet(path: PathLike) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile to be read; errors as in `opened`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(path) as file:
        try:
            table = pq.ParquetFile(file)
            about = table.metadata
            if about.num_rows != sum(about.row_group(index).num_rows for index in range(about.num_row_groups)):
                raise ValueError("its counts of rows differ")
            yield table
        except pa.ArrowException as error:  # some are of no other kind
            raise ValueError(one_line(error)) from None


def _rows_of_parquet(path: PathLike, columns: Sequence[str]) -> Iterator[Given]:
    numbers = itertools.count(1)
    with opened_parquet(path) as table:
        chosen = [name for name in table.schema_arrow.names if name in columns or not columns]
        if len(set(chosen)) < len(chosen):
            raise ValueError("two columns of one name")
        for batch in table.iter_batches(batch_size=512, columns=chosen):
            for index in range(batch.num_rows):
                place = f"{path}: row {next(numbers)}"
                try:  # row by row, since one value that cannot be converted fails all that are converted with it
                    row = batch.slice(index, 1).to_pylist()[0]
                    yield _checked(place, {name: _text_of(value) for name, value in row.items()})
                except DAMAGED as error:
                    yield Given(place, {}, f"not a row ({one_line(error)})")
        if next(numbers) <= table.metadata.num_rows:
            raise ValueError("it ends before its last row")


def _text_of(value: Any) -> Any:
    with contextlib.suppress(UnicodeDecodeError):
        return value.decode() if isinstance(value, bytes) else value
    return value


def _is_list(path: PathLike, file: IO[bytes]) -> bool:
    head = file.peek(4096) if isinstance(file, io.BufferedReader) else b""
    return ".jsonl" not in epath.Path(path).name and re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", head) is not None


def _parsed(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object with one name twice")
    return found


def _checked(place: str, row: Any, line: bytes = b"") -> Given:
    fault = "" if _is_flat(row, _DEEPEST) else "nested too deeply"
    if not isinstance(row, dict):
        fault = "not a JSON object"
    return Given(place, {} if fault else row, fault, line)


def _is_flat(value: Any, left: int) -> bool:
    """Whether lists and objects stand in each other `left` deep at most."""
    if not isinstance(value, list | dict):
        return True
    return left > 0 and all(_is_flat(v, left - 1) for v in (value.values() if isinstance(value, dict) else value))


def normal(value: Any) -> str:
    """A value as text in the one form that texts have here: UTF-8 without byte order mark, lines that end in a line
    feed. Raises ValueError, with the reason, for what UTF-8 cannot hold, and for a NUL, which no source has.
    """
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        text.encode()
    except UnicodeError:
        raise ValueError("not UTF-8") from None
    if "\0" in text:
        raise ValueError("NUL in it")
    return plain(text)


def plain(text: str) -> str:
    """Without byte order mark, and with lines that end in a line feed."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def escaped(name: str) -> str:
    """A file's name as UTF-8 can hold it: bytes of a name that is not UTF-8 as \\udcXX."""
    return name.encode(errors="backslashreplace").decode()
