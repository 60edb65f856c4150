"""Stage `synthesize` with texts that somebody has: they pass the checks that a teacher's texts pass.

Read are JSON lines (.jsonl) and Parquet (.parquet), by row {"kind": "textbooks" or "exercises", "text": ...}, for an
exercise also {"code": ..., "tests": ...}: a list of assert statements, or one text of them. A document set of ours is
such a file too: where there is no kind, the language says it. An exercise without tests is run, and its examples hold.
Taken over where a row has them: source, path, license, teacher.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, file_digest, write_json
from phi_jax.synthesis.curriculum import KINDS
from phi_jax.synthesis.review import Desk, Submission, clear

TEACHER = "files"  # the value of config.synthesize.teacher; stands in the facts
_ENDINGS = (".jsonl", ".parquet")
_FIELDS = ("kind", "text", "code", "tests", "source", "path", "license", "language", "teacher")
_KIND_OF = {"markdown": "textbooks", "python": "exercises"}  # by language, where a row has no kind


def given(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, reason, text). Rows that are neither are set aside with the reason, among the "exercises".

    Raises UserError for a file that is not there or cannot be read. The files are read when the artifact is first
    built: remove it to read them again.
    """
    rules = config.synthesize
    files = _files(rules.files)
    _start_over_if_changed(draft, files)
    facts: dict[str, Any] = {}
    counts = Counter(map(_desk_of, _items(files)))
    for kind in KINDS:
        desk = Desk(draft, kind, rules)
        desk.review(_of_kind(kind, files), counts[kind], lambda item: _submission(item, rules.license))
        facts[kind] = desk.publish()
    draft.add_output("set_aside", "set_aside", rows=sum(facts[kind]["set_aside"] for kind in KINDS))
    draft.add_facts(written_by=TEACHER, files=[file.name for file in files], **facts)
    clear(draft)


def _files(names: Sequence[str]) -> list[epath.Path]:
    """The files named, and those in the directories named. Raises UserError where there is none."""
    if not names:
        raise UserError(
            "config.synthesize.files is empty; name the texts that config.synthesize.teacher='files' is to read, "
            ".jsonl or .parquet files or directories of such"
        )
    found: list[epath.Path] = []
    for name in names:
        path = epath.Path(name)
        if not path.exists():
            raise UserError(f"config.synthesize.files: {name}: no such file or directory; mend the path")
        inside = sorted(p for ending in _ENDINGS for p in path.glob(f"*{ending}")) if path.is_dir() else [path]
        if not inside or not all(p.name.endswith(_ENDINGS) for p in inside):
            raise UserError(
                f"config.synthesize.files: {name}: neither {' nor '.join(_ENDINGS)}, nor a directory of such"
            )
        found += inside
    return found


def _start_over_if_changed(draft: Draft, files: Sequence[epath.Path]) -> None:
    """What a killed run left counts only if it read the same files."""
    record = draft.directory / "files.json"
    digests = [[file.name, file_digest(file)] for file in files]
    if not (record.exists() and json.loads(record.read_text()) == digests):
        for left in draft.directory.iterdir():
            if left.is_dir():
                left.rmtree()
        write_json(record, digests)


@dataclasses.dataclass(frozen=True)
class _Item:
    """A row of a file, or why it cannot be read."""

    place: str  # "file.jsonl:12", rows counted from 1
    row: dict[str, Any]
    problem: str = ""


def _items(files: Sequence[epath.Path]) -> Iterator[_Item]:
    for file in files:
        rows = _lines(file) if file.name.endswith(".jsonl") else ((row, "") for row in _table(file))
        for number, (row, problem) in enumerate(rows, 1):
            yield _Item(f"{file.name}:{number}", row, problem or _problem(row))


def _lines(file: epath.Path) -> Iterator[tuple[dict[str, Any], str]]:
    with file.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row, ""
            else:
                yield {"text": line.decode(errors="replace")}, "no JSON object"


def _table(file: epath.Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as handle:
            names = pq.ParquetFile(handle).schema_arrow.names
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: cannot be read as Parquet ({error}); write it again") from None
    there = [name for name in _FIELDS if name in names]
    if not {"text", "code"} & set(there):
        raise UserError(f"{file}: has neither a column 'text' nor 'code'; it has: {', '.join(names)}")
    return documents.read_part(file, there)


def _problem(row: Mapping[str, Any]) -> str:
    """Why a row is no text; "" where it is one."""
    if row.get("kind") is not None and row["kind"] not in KINDS:
        return f"no text: kind is {str(row['kind'])[:40]!r}, not one of {', '.join(KINDS)}"
    if _kind(row) is None:
        return "no text: it has no kind"
    if not isinstance(_text(row), str):
        return "no text: it has no field 'text' of text" + (" or 'code'" if _kind(row) == "exercises" else "")
    return ""


def _kind(row: Mapping[str, Any]) -> str | None:
    if row.get("kind") is not None:
        return str(row["kind"])
    return "exercises" if row.get("code") is not None else _KIND_OF.get(str(row.get("language")))


def _text(row: Mapping[str, Any]) -> Any:
    code = row.get("code") if _kind(row) == "exercises" else None
    return row.get("text") if code is None else code


def _desk_of(item: _Item) -> str:
    return "textbooks" if not item.problem and _kind(item.row) == "textbooks" else "exercises"


def _of_kind(kind: str, files: Sequence[epath.Path]) -> Iterator[_Item]:
    return (item for item in _items(files) if _desk_of(item) == kind)


def _submission(item: _Item, license: str) -> Submission:
    row, text = item.row, _text(item.row)
    own = {name: value for name in ("source", "path", "license", "teacher") if isinstance(value := row.get(name), str)}
    return Submission(
        path=own.get("path") or item.place,
        text=text if isinstance(text, str) else json.dumps(row, ensure_ascii=False, default=str),
        source=own.get("source") or item.place.rpartition(":")[0],
        license=own.get("license") or license,
        tests=None if _desk_of(item) == "textbooks" else _tests(row.get("tests")),
        teacher=own.get("teacher"),
        problem=item.problem,
    )


def _tests(value: Any) -> tuple[str, ...] | None:
    """A list of tests, as it stands or in JSON; a text of statements is cut into them. None where there are none."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = None
        value = parsed if isinstance(parsed, list) else _statements(value)
    if not isinstance(value, list) or not value:
        return None
    return tuple(test if isinstance(test, str) else json.dumps(test, default=str) for test in value)


def _statements(text: str) -> list[str]:
    try:
        return [ast.get_source_segment(text, statement) or "" for statement in ast.parse(text).body]
    except (SyntaxError, ValueError, RecursionError):
        return [text]
