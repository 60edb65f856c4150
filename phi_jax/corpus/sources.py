"""Where raw files come from: what is installed here, directories, Python files, Parquet and JSON lines."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import itertools
import json
import platform
import re
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from phi_jax.errors import UserError
from phi_jax.progress import say
from phi_jax.store import documents
from phi_jax.store.artifact import file_digest

INSTALLED = "installed"
_TABLES = (".parquet", ".jsonl", ".jsonl.gz")
_TEXT_COLUMNS = ("text", "content")  # ours, and The Stack's
_FIELDS = ("path", "license", "language")  # what a row may say beside its text


class RawFile(NamedTuple):
    """One candidate document before it is looked at."""

    source: str
    path: str  # within the source
    license: str | None
    file: str  # where the bytes lie on this machine
    row: int = -1  # of a Parquet or JSONL file; -1 = the file itself is the document


def list_files(source: str, packages: Sequence[str] = ()) -> Iterator[RawFile]:
    """The raw files of one entry of config.collect.sources, in an order that does not depend on the disk.

    packages: distributions that "installed" stands for, beside the standard library. Raises UserError for a source
    that does not exist or is none of what can be read.
    """
    if source == INSTALLED:
        yield from standard_library()
        for name in packages:
            yield from _files_of(name)
        return
    root = Path(source).expanduser()
    if not root.exists():
        raise UserError(f"config.collect.sources: {source}: no such file or directory")
    if not root.is_dir() and not root.name.endswith((".py", *_TABLES)):
        raise UserError(
            f"config.collect.sources: {source}: must be a directory, or a file in .py, {', '.join(_TABLES)}"
        )
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if file.is_dir() or not file.name.endswith((".py", *_TABLES)):
            continue
        path = file.relative_to(root if root.is_dir() else root.parent).as_posix()
        if file.name.endswith(".py") or not file.is_file():
            yield RawFile(source, path, None, str(file))
            continue
        for row in range(_count_rows(file)):
            yield RawFile(source, f"{path}#{row}", None, str(file), row)


def standard_library() -> Iterator[RawFile]:
    """The .py files of the Python that runs this, without site-packages."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if not {"site-packages", "dist-packages", "__pycache__"} & set(relative.parts):
            yield RawFile(f"stdlib {platform.python_version()}", relative.as_posix(), "PSF-2.0", str(file))


def _files_of(name: str) -> Iterator[RawFile]:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        say(f"config.collect.packages: {name} is not installed; its files are left out")
        return
    licence = licence_of(distribution)
    for file in sorted(distribution.files or [], key=str):
        if file.suffix == ".py" and ".." not in file.parts:
            place = str(distribution.locate_file(file))
            yield RawFile(f"{distribution.metadata['Name']} {distribution.version}", file.as_posix(), licence, place)


def licence_of(distribution: importlib.metadata.Distribution) -> str | None:
    """The licence a distribution's metadata names: expression, short text or classifier; None where none does."""
    metadata = distribution.metadata.json
    if expression := metadata.get("license_expression"):
        return str(expression)
    if classifiers := [c for c in metadata.get("classifier", []) if c.startswith("License ::")]:
        return " AND ".join(re.sub(r".*:: ", "", c) for c in classifiers)
    text = str(metadata.get("license", "")).strip()
    return text if text and len(text) <= 100 and "\n" not in text else None


# --- Reading -------------------------------------------------------------------------------------------------------


class Reader:
    """Reads raw files; rows of one table in ascending order cost one pass over it."""

    def __init__(self) -> None:
        self._rows: Iterator[documents.Row] = iter(())
        self._file, self._next = "", 0

    def read(self, raw: RawFile, digest: str) -> tuple[documents.Row, str]:
        """({"text", "path", "license", "language"}, "") with text that UTF-8 can hold, or ({}, the reason why not).

        digest: of the file when it was listed.
        """
        if raw.row < 0:
            if (data := _bytes_of(raw.file)) is None:
                return {}, "not a readable file"
            changed = hashlib.sha256(data).hexdigest() != digest
            return ({}, "changed since the list was made") if changed else _normal({"text": data})
        if raw.file != self._file or raw.row < self._next:
            self._file, self._next, self._rows = raw.file, 0, read_rows(Path(raw.file))
        row = next(itertools.islice(self._rows, raw.row - self._next, None), {})
        self._next = raw.row + 1
        return _normal(row)


def _normal(row: documents.Row) -> tuple[documents.Row, str]:
    """The one form of a text: UTF-8 without byte order mark, lines that end in a line feed."""
    try:
        fields = {name: _decoded(row.get(name)) for name in ("text", *_FIELDS)}
    except UnicodeError:
        return {}, "not UTF-8"
    if not isinstance(row.get("text"), (str, bytes)):
        return {}, "malformed row"
    text = (fields["text"] or "").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return {**fields, "text": text}, ""


def _decoded(value: Any) -> str | None:
    """A value of any type as text. Raises UnicodeError for what UTF-8 cannot hold."""
    text = value.decode() if isinstance(value, bytes) else str(value or "")
    text.encode()
    return text or None


def read_rows(file: Path) -> Iterator[documents.Row]:
    """Rows of a Parquet or JSONL file as they are, the text under "text"; an empty one for a line that is no object.

    Raises UserError for a damaged file, and for Parquet with neither a column `text` nor `content`.
    """
    if file.suffix == ".parquet":
        names = documents.schema_of_part(file).names
        text = next((name for name in _TEXT_COLUMNS if name in names), None)
        if text is None:
            raise UserError(f"{file}: has neither a column `text` nor `content`")
        columns = [text, *(name for name in _FIELDS if name in names)]
        yield from ({**row, "text": row[text]} for row in documents.read_part(file, columns))
        return
    for line in _lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield {**row, "text": row.get("text", row.get("content"))} if isinstance(row, dict) else {}


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}); get a good copy") from None


def _count_rows(file: Path) -> int:
    if file.suffix != ".parquet":
        return sum(1 for _ in _lines(file))
    documents.schema_of_part(file)  # names the file where it is damaged
    return pq.read_metadata(file).num_rows


def _bytes_of(file: str) -> bytes | None:
    """None for what is no regular file, such as a pipe, and for what cannot be read."""
    try:
        return Path(file).read_bytes() if Path(file).is_file() else None
    except OSError:
        return None


def digest_of_file(file: str) -> str:
    """SHA-256 (hex) of a regular file's bytes; "" where they cannot be read."""
    try:
        return file_digest(file) if Path(file).is_file() else ""
    except OSError:
        return ""
