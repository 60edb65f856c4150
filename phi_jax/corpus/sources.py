"""Where raw files come from: what is installed here, directories, Python files, Parquet, JSON lines and dumps of
StackOverflow, which lie on this machine, in an object store (s3://, gs://) or on the Hugging Face Hub (hf://).
"""

import hashlib
import importlib.metadata
import itertools
import os
import platform
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from phi_jax.config import Config
from phi_jax.corpus import stackoverflow
from phi_jax.errors import UserError
from phi_jax.progress import note
from phi_jax.store import hub, rows
from phi_jax.store.artifact import digest_of, file_digest, is_object_store

INSTALLED = "installed"
FILES = (".py", *rows.ENDINGS, *stackoverflow.ENDINGS)
_DAMAGED = "damaged"  # why a table is set aside, or its rows from some place on
_FIELDS = ("path", "license", "language", "repository")  # what a row may say beside its text
_Columns = Mapping[str, Sequence[str]]  # our name -> a table's, as rows.named_columns has it


class RawFile(NamedTuple):
    """One candidate document before it is looked at."""

    source: str
    path: str  # within the source
    license: str | None
    file: str  # where the bytes lie
    row: int = -1  # of a Parquet or JSONL file; -1 = the file itself is the document
    digest: str = ""  # SHA-256 of the file, or of its digest and the row's number; "" = no regular file, or unreadable
    fault: str = ""  # why it is set aside unseen


def list_files(source: str, packages: Sequence[str] = (), posts: Any = None) -> Iterator[RawFile]:
    """The raw files of one entry of config.collect.sources, in an order that does not depend on the disk.

    packages: distributions that "installed" stands for, beside the standard library. posts: directory that the texts of
    StackOverflow's dumps are written to, as tables. A damaged table is one file, with that fault. Raises UserError for
    a source that does not exist or is none of what can be read. Files of the Hub are fetched.
    """
    for raw in _installed(packages) if source == INSTALLED else _files_below(source):
        file = rows.located(raw.file)
        if file.name.lower().endswith(stackoverflow.ENDINGS) and file.is_file():
            found = stackoverflow.pairs(file, posts / digest_of(raw))
            yield from (raw._replace(digest=digest_of(one["path"]), **one) for one in found)
            continue
        try:
            digest = file_digest(file) if file.is_file() else ""
        except OSError:
            digest = ""
        if not digest or file.name.lower().endswith(".py"):
            yield raw._replace(digest=digest)
            continue
        try:
            count = rows.count_rows(file)
        except UserError as error:
            _warn(file, error)
            yield raw._replace(fault=_DAMAGED)
            continue
        for row in range(count):
            yield raw._replace(path=f"{raw.path}#{row}", row=row, digest=digest_of([digest, row]))


def check(config: Config, name: str) -> Iterator[str]:
    """What is to be known of entries of config.collect.sources on the Hub: commit and licence.

    Raises UserError for an entry that is not there, or none of what can be read, and as `columns` and `opt_outs`.
    """
    columns(config.collect)
    opt_outs(config.collect)
    for source in config.collect.sources:
        if hub.is_hub(source):
            yield f"collect: {hub.pin(source)}: licence {config.collect.license or 'of each file, as its row names it'}"
        elif source != INSTALLED:
            _root(source)


def columns(rules: Config) -> _Columns:
    """What config.collect.columns says. Raises UserError for what cannot be."""
    names = rows.named_columns(rules.columns, "config.collect.columns", ("text", *_FIELDS))
    if rules.opt_outs and "repository" not in names:
        raise UserError(
            'config.collect.opt_outs: no column names the repository; add "repository=COLUMN" to config.collect.columns'
        )
    return names


def opt_outs(rules: Config) -> Set[str]:
    """The owners and repositories in the file config.collect.opt_outs, in lower case, and "", for rows that name none.

    Raises UserError for a file that cannot be read, or that holds something else.
    """
    if not rules.opt_outs:
        return set()
    with rows.opened(rules.opt_outs) as file:
        names = [line.strip() for line in file.read().decode("utf-8-sig").lower().split("\n")]
        if wrong := [name for name in names if not re.fullmatch(r"([\w-]+(/[\w.-]+)?)?", name)]:
            raise ValueError(f"{wrong[0]!r} is neither an owner nor OWNER/REPOSITORY")
    return {"", *names}


def _root(source: str) -> Any:
    root = rows.located(source)
    if is_object_store(source):
        rows.files_below(source, FILES)  # the library that reads it is there, and what it wants
        return root
    if not source or not os.path.exists(root):
        raise UserError(f"config.collect.sources: {source}: no such file or directory; looked at {root.absolute()}")
    if not root.is_dir() and not root.name.lower().endswith(FILES):
        raise UserError(f"config.collect.sources: {source}: must be a directory, or a file in {', '.join(FILES)}")
    if not os.access(root, os.R_OK) or not (root.is_dir() or root.is_file()):
        raise UserError(f"config.collect.sources: {source}: cannot be read; name a directory or a regular file")
    return root


def _files_below(source: str) -> Iterator[RawFile]:
    if hub.is_hub(source):
        for pinned, path, file in hub.fetch(source, FILES):
            yield RawFile(pinned, path, None, str(file))
        return
    root = _root(source)
    top = root if root.is_dir() else root.parent
    for file in rows.files_below(root, FILES):
        yield RawFile(source, file.relative_to(top).as_posix(), None, str(file))


def _installed(packages: Sequence[str]) -> Iterator[RawFile]:
    """The .py files of the Python that runs this, without site-packages, and those of distributions."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        if not {"site-packages", "dist-packages", "__pycache__"} & set(path.parts):
            yield RawFile(f"stdlib {platform.python_version()}", path.as_posix(), "PSF-2.0", str(file))
    for name in packages:
        try:
            found = importlib.metadata.distribution(name)
            source, licence = f"{found.metadata['Name']} {found.version}", licence_of(found)
            files = sorted(found.files or [], key=str)
        except importlib.metadata.PackageNotFoundError:
            note(f"config.collect.packages: {name} is not installed; its files are left out")
            continue
        except ValueError as error:
            note(f"config.collect.packages: {name}: its metadata cannot be read ({error}); its files are left out")
            continue
        for installed in files:
            if installed.suffix == ".py" and ".." not in installed.parts:
                yield RawFile(source, installed.as_posix(), licence, str(found.locate_file(installed)))


def licence_of(distribution: importlib.metadata.Distribution) -> str | None:
    """The licence a distribution's metadata names: expression, short text or classifier; None where none does."""
    metadata = distribution.metadata.json
    classifiers = [re.sub(r".*:: ", "", c) for c in metadata.get("classifier", []) if c.startswith("License ::")]
    text = str(metadata.get("license", "")).strip()
    short = text if len(text) <= 100 and "\n" not in text else ""
    return str(metadata.get("license_expression") or " AND ".join(classifiers) or short) or None


# --- Reading -------------------------------------------------------------------------------------------------------


class Reader:
    """Reads raw files; rows of one table in ascending order cost one pass over it."""

    def __init__(self, names: _Columns, opt_outs: Set[str] = frozenset()) -> None:
        """names: what tables call our columns. opt_outs: see `opt_outs`."""
        self._names, self._opt_outs = names, opt_outs
        self._rows: Iterator[rows.Given] = iter(())
        self._file, self._next, self._missing = "", 0, ""

    def read(self, raw: RawFile) -> tuple[rows.Row, str]:
        """({"text", "path", "license", "language", "repository"}, "") with text that UTF-8 can hold; where there is a
        reason to set it aside, that is the second, and the row may be {}."""
        if raw.fault or not raw.digest:
            return {}, raw.fault or "not a readable file"
        if raw.row < 0:
            try:
                data = rows.located(raw.file).read_bytes()
            except OSError:
                data = b""
            changed = hashlib.sha256(data).hexdigest() != raw.digest
            return ({}, "changed since the list was made") if changed else _normal({"text": data})
        if raw.file != self._file or raw.row < self._next:
            self._file, self._next = raw.file, 0
            self._rows = rows.read_rows(raw.file, _columns(raw.file, self._names))
            self._missing = "changed since the list was made"
        given = None
        try:
            given = next(itertools.islice(self._rows, raw.row - self._next, None), None)
        except UserError as error:
            _warn(raw.file, error)
            self._missing = _DAMAGED  # the rows behind this one too
        self._next = raw.row + 1
        if not given:
            return {}, self._missing
        row, reason = _normal(rows.renamed(given.row, self._names))
        repository = (row.get("repository") or "").lower()
        opted_out = {repository, repository.partition("/")[0]} & self._opt_outs
        return row, reason or ("opted out" if opted_out else "")


def _warn(file: Any, error: UserError) -> None:
    """Says why a file is set aside. Raises the error where its bytes come through a network, which may have failed."""
    if is_object_store(file):
        raise error
    note(f"warning: {error}")


def _normal(row: rows.Row) -> tuple[rows.Row, str]:
    text = row.get("text", row.get("content"))  # our name, and The Stack's
    if not isinstance(text, str | bytes):
        return {}, "malformed row"
    try:
        # The Stack has a list of licences.
        given = {n: " AND ".join(map(str, v)) if isinstance(v := row.get(n), list) else v for n in _FIELDS}
        fields = {name: rows.normal(value or "") or None for name, value in given.items()}
        return {**fields, "text": rows.normal(text)}, ""
    except ValueError as error:
        return {}, str(error)


def _columns(file: str, names: _Columns) -> Sequence[str]:
    """The columns of a Parquet file that are read. Raises UserError where none holds a text."""
    if not rows.is_parquet(file):
        return ()
    wanted = ("text", "content", *names.get("text", ()))
    with rows.opened_parquet(file) as table:
        if not {*wanted} & {*table.schema_arrow.names}:
            raise UserError(f"{file}: has neither a column `text` nor `content`; config.collect.columns may name one")
    return (*wanted, *_FIELDS, *itertools.chain.from_iterable(names.values()))
