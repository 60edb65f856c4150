"""Stage `synthesize` with texts that somebody has: they pass the checks that a teacher's texts pass.

Read are JSON lines (.jsonl) and Parquet (.parquet), by row {"kind": "textbooks" or "exercises", "text": ...}, for an
exercise also {"code": ..., "tests": ...}: a list of assert statements, or one text of them. A document set of ours is
such a file too: where there is no kind, the language says it. An exercise without tests is run, and its examples hold.
Taken over where a row has them: source, path, license, teacher.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft
from phi_jax.store.documents import Row
from phi_jax.synthesis.outputs import LANGUAGES, Fault, declare
from phi_jax.synthesis.review import Reviewer, Submission, clear

NAME = "files"  # stands in the facts
_ENDINGS = (".jsonl", ".parquet")
_OWN = ("source", "path", "license", "teacher")  # what is taken over
_FIELDS = (*_OWN, "kind", "text", "code", "tests", "language")
_KIND_OF = {language: kind for kind, language in LANGUAGES.items()}  # where a row has no kind


class _Item(NamedTuple):
    place: str  # "file.jsonl:12", rows counted from 1
    row: Row


def synthesize(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, code, reason, text). Rows that are neither are set aside with the reason, among the "exercises".

    Raises UserError for a file that is not there or cannot be read.
    """
    rules = getattr(config.texts, draft.name)
    files = _files(rules.files, f"config.texts.{draft.name}.files")
    facts: dict[str, dict[str, int]] = {}
    for kind in LANGUAGES:
        reviewer = Reviewer(draft, kind, rules)
        of_kind = (item for item in _items(files) if (_kind(item.row) == "textbooks") == (kind == "textbooks"))
        reviewer.review(_submission(item, rules.license) for item in of_kind)
        facts[kind] = reviewer.publish()
    declare(draft, written_by=NAME, files=[file.name for file in files], **facts)
    clear(draft)


def _files(names: Sequence[str], field: str) -> list[epath.Path]:
    """The files named, and those in the directories named. Raises UserError where there is none."""
    if not names:
        raise UserError(f"{field} is empty; name the texts to read, .jsonl or .parquet files or directories of such")
    found: list[epath.Path] = []
    for path in map(epath.Path, names):
        if not path.exists():
            raise UserError(f"{field}: {path}: no such file or directory; mend the path")
        inside = sorted(p for p in path.iterdir() if p.name.endswith(_ENDINGS)) if path.is_dir() else [path]
        if not inside or not all(p.name.endswith(_ENDINGS) for p in inside):
            raise UserError(f"{field}: {path}: neither {' nor '.join(_ENDINGS)}, nor a directory of such")
        found += inside
    return found


def _items(files: Sequence[epath.Path]) -> Iterator[_Item]:
    for file in files:
        rows = _lines(file) if file.name.endswith(".jsonl") else _table(file)
        yield from (_Item(f"{file.name}:{number}", row) for number, row in enumerate(rows, 1))


def _lines(file: epath.Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        for line in filter(bytes.strip, lines):
            row = _from_json(line)
            yield row if isinstance(row, dict) else {"kind": "no JSON object", "text": line.decode(errors="replace")}


def _from_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _table(file: epath.Path) -> Iterator[Row]:
    try:
        with file.open("rb") as handle:
            names = pq.ParquetFile(handle).schema_arrow.names
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: cannot be read as Parquet ({error}); write it again") from None
    there = [name for name in _FIELDS if name in names]
    if not {"text", "code"} & set(there):
        raise UserError(f"{file}: has neither a column 'text' nor 'code'; it has: {', '.join(names)}")
    return documents.read_part(file, there)


def _kind(row: Row) -> str:
    """The kind of a row, if it has a known one; else what stands in its place."""
    if row.get("kind") is not None:
        return str(row["kind"])
    return "exercises" if row.get("code") is not None else _KIND_OF.get(str(row.get("language")), "")


def _submission(item: _Item, license: str) -> Submission:
    """The text of a row, or why it is none."""
    row, kind = item.row, _kind(item.row)
    text = row["code"] if kind == "exercises" and row.get("code") is not None else row.get("text")
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    fault = None
    if kind not in LANGUAGES:
        fault = Fault("no_text", f"its kind is {kind[:40]!r}, not one of {', '.join(LANGUAGES)}")
    elif not isinstance(text, str):
        fault = Fault("no_text", "it has no field 'text' or 'code' that holds a text")
    own = {name: value for name in _OWN if isinstance(value := row.get(name), str)}
    source = item.place.rpartition(":")[0]
    return Submission(
        **{"path": item.place, "source": source, "license": license, **own},
        text=text if isinstance(text, str) else json.dumps(row, ensure_ascii=False, default=str),
        tests=None if kind == "textbooks" else _tests(row.get("tests")),
        fault=fault,
    )


def _tests(value: Any) -> tuple[str, ...] | None:
    """A list of tests, as it stands or in JSON; a text of statements is cut into them. None where there are none."""
    if isinstance(value, str):
        parsed = _from_json(value)
        value = parsed if isinstance(parsed, list) else _statements(value)
    if not isinstance(value, list) or not value:
        return None
    return tuple(test if isinstance(test, str) else json.dumps(test, default=str) for test in value)


def _statements(text: str) -> list[str]:
    try:
        return [ast.get_source_segment(text, statement) or "" for statement in ast.parse(text).body]
    except (SyntaxError, ValueError, RecursionError):
        return [text]
