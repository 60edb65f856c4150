"""Where raw files come from: what is installed here, directories, Parquet and JSONL."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from phi_jax.errors import UserError
from phi_jax.store import documents

INSTALLED = "installed"
_ROOT_DISTRIBUTION = "phi-jax"


class RawFile(NamedTuple):
    """One candidate document before it is looked at. `row` numbers the rows of a table file."""

    source: str
    path: str  # within the source
    license: str | None
    file: str  # where the bytes lie on this machine
    row: int = -1  # of a Parquet or JSONL file; -1 = the file itself is the document


def list_files(source: str) -> Iterator[RawFile]:
    """The raw files of one entry of config.collect.sources, in an order that does not depend on the disk.

    Raises UserError where it does not exist or is none of what this can read.
    """
    if source == INSTALLED:
        yield from standard_library()
        yield from _dependencies()
        return
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"config.collect.sources: {source}: no such file or directory")
    if path.is_dir() and not any(path.glob("*.parquet")):
        for file in sorted(path.rglob("*.py")):
            yield RawFile(source, file.relative_to(path).as_posix(), None, str(file))
    elif path.is_dir() or path.suffix in (".parquet", ".jsonl"):
        for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
            for number, _ in enumerate(read_rows(file)):
                yield RawFile(source, f"{file.name}#{number}", None, str(file), number)
    else:
        raise UserError(f"config.collect.sources: {source}: must be a directory, a .parquet or a .jsonl file")


def read_rows(file: Path) -> Iterator[dict | None]:
    """Rows of a Parquet or JSONL file as {"text", "path"?, "license"?, "language"?}; None for a malformed one.

    The text is in column `text`, or `content` as in The Stack. Raises UserError where no row has either.
    """
    if file.suffix == ".jsonl":
        with file.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                    yield _normal(row) if isinstance(row, dict) else None
                except ValueError:
                    yield None
        return
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
    except Exception as error:
        raise UserError(f"{file}: cannot be read as Parquet ({error}); write it again") from None
    text = next((n for n in ("text", "content") if n in names), None)
    if text is None:
        raise UserError(f"{file}: has neither a column `text` nor `content`")
    wanted = [text, *(n for n in ("path", "license", "language") if n in names)]
    for row in documents.read_part(file, wanted):
        yield _normal(row)


def _normal(row: dict) -> dict | None:
    text = row.get("text", row.get("content"))
    return {**row, "text": text} if isinstance(text, str) else None


def standard_library() -> Iterator[RawFile]:
    """The .py files of the Python that runs this, without site-packages."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if not {"site-packages", "dist-packages", "__pycache__"} & set(relative.parts):
            yield RawFile(f"stdlib {platform.python_version()}", relative.as_posix(), "PSF-2.0", str(file))


def _dependencies() -> Iterator[RawFile]:
    for distribution in run_time_distributions():
        source = f"{distribution.metadata['Name']} {distribution.version}"
        licence = licence_of(distribution)
        for file in sorted(distribution.files or [], key=str):
            if file.suffix == ".py" and ".." not in file.parts:
                yield RawFile(source, file.as_posix(), licence, str(distribution.locate_file(file)))


def run_time_distributions() -> list[importlib.metadata.Distribution]:
    """What phi-jax needs at run time, itself and its extras left out, followed to the end; sorted by name.

    Raises UserError where phi-jax is not installed, since then nobody has said what it needs.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        todo = list(importlib.metadata.requires(_ROOT_DISTRIBUTION) or [])
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"config.collect.sources: 'installed' needs {_ROOT_DISTRIBUTION} to be installed; "
            "run `pip install -e .` in its checkout"
        ) from None
    found: dict[str, importlib.metadata.Distribution] = {}
    while todo:
        requirement = Requirement(todo.pop())
        # Each extra a requirement names brings the requirements that are marked with it.
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        extras = ["", *requirement.extras]
        for needed in found[name].requires or []:
            marker = Requirement(needed).marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed.partition(";")[0])
    return [found[name] for name in sorted(found)]


def licence_of(distribution: importlib.metadata.Distribution) -> str | None:
    """The licence a distribution's metadata names: expression, short text or classifier; None where none does."""
    metadata = distribution.metadata.json
    expression = metadata.get("license_expression")
    if expression:
        return str(expression)
    classifiers = [c for c in metadata.get("classifier", []) if c.startswith("License ::")]
    if classifiers:
        return " AND ".join(re.sub(r".*:: ", "", c) for c in classifiers)
    text = str(metadata.get("license", "")).strip()
    return text if text and len(text) <= 100 and "\n" not in text else None
