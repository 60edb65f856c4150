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
from typing import Any

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
        reviewer.review(text for found, text in _submissions(files, rules.license) if found == kind)
        facts[kind] = reviewer.publish()
    declare(draft, written_by=NAME, files=[file.name for file in files], **facts)
    clear(draft)


def _files(names: Sequence[str], field: str) -> list[epath.Path]:
    """The files named, and those in the directories named. Raises UserError where there is none."""
    if not names:
        raise UserError(f"{field} is empty; name the texts to read, .jsonl or .parquet files or directories of such")
    found: list[epath.Path] = []
    for path in map(epath.Path, names):
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        texts = [file for file in inside if file.name.endswith(_ENDINGS) and file.exists()]
        if not texts:
            raise UserError(f"{field}: {path}: no {' or '.join(_ENDINGS)} file, nor a directory of such; mend the path")
        found += texts
    return found


def _submissions(files: Sequence[epath.Path], license: str) -> Iterator[tuple[str, Submission]]:
    """(kind, text) for every row of the files; a row that is none is an exercise with a fault."""
    for file in files:
        for number, row in enumerate(_rows(file), 1):
            yield _submission(row, file.name, f"{file.name}:{number}", license)


def _rows(file: epath.Path) -> Iterator[Row]:
    """The rows of a file. A line that is no JSON object is a row of an unknown kind."""
    if file.name.endswith(".parquet"):
        names = documents.schema_of_part(file).names
        if not {"text", "code"} & set(names):
            raise UserError(f"{file}: has neither a column 'text' nor 'code'; it has: {', '.join(names)}")
        yield from documents.read_part(file, [name for name in _FIELDS if name in names])
        return
    with file.open("rb") as lines:
        for line in filter(bytes.strip, lines):
            row = _from_json(line)
            yield row if isinstance(row, dict) else {"kind": "no JSON object", "text": line.decode(errors="replace")}


def _from_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _submission(row: Row, source: str, path: str, license: str) -> tuple[str, Submission]:
    """The kind and the text of a row, or why it is none."""
    code = row.get("code")
    kind = str(row.get("kind") or ("exercises" if code is not None else _KIND_OF.get(str(row.get("language")), "")))
    text = code if kind == "exercises" and code is not None else row.get("text")
    fault = None
    if kind not in LANGUAGES:
        kind, fault = "exercises", Fault("no_text", f"its kind is {kind[:40]!r}, not one of {', '.join(LANGUAGES)}")
    elif not isinstance(text, str):
        fault = Fault("no_text", "it has no field 'text' or 'code' that holds a text")
    own = {name: row[name] for name in _OWN if isinstance(row.get(name), str)}
    return kind, Submission(
        **{"path": path, "source": source, "license": license, **own},
        text=text if isinstance(text, str) else json.dumps(row, ensure_ascii=False, default=str),
        tests=None if kind == "textbooks" else _tests(row.get("tests")),
        fault=fault,
    )


def _tests(value: Any) -> tuple[str, ...] | None:
    """A list of tests, as it stands or in JSON; a text of statements is cut into them. None where there are none."""
    if isinstance(value, str):
        found = _from_json(value)
        value = found if isinstance(found, list) else _statements(value)
    if not isinstance(value, list) or not value:
        return None
    return tuple(test if isinstance(test, str) else json.dumps(test, default=str) for test in value)


def _statements(text: str) -> list[str]:
    try:
        return [ast.get_source_segment(text, statement) or "" for statement in ast.parse(text).body]
    except (SyntaxError, ValueError, RecursionError):
        return [text]
