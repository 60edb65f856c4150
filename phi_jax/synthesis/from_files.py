"""Stage `synthesize` with texts that somebody has: they pass the checks that a teacher's texts pass.

Read are JSON lines (.jsonl) and Parquet (.parquet), by row {"kind": "textbooks" or "exercises", "text": ...}, for an
exercise also {"tests": a list of assert statements}, as it is or in JSON. A document set of ours is such a file too:
where there is no kind, the language says it. An exercise without tests is run, and its examples hold. Taken over where
a row has them: source, path, license, teacher.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from etils import epath
from pydantic import BaseModel, Json, ValidationError

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft
from phi_jax.store.documents import Row
from phi_jax.synthesis.outputs import KINDS, LANGUAGES, Fault, declare, judged
from phi_jax.synthesis.review import sift

_ENDINGS = (".jsonl", ".parquet")
_KIND_OF = {language: kind for kind, language in LANGUAGES.items()}  # where a row has no kind


class _Given(BaseModel):
    """What a row may say; its other fields are passed over."""

    text: str
    kind: str | None = None
    language: str | None = None
    tests: Json[list[str] | None] | list[str] | None = None
    source: str | None = None
    path: str | None = None
    license: str | None = None
    teacher: str | None = None


def synthesize(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, code, reason, text). Rows that are neither are set aside with the reason, among the "exercises".

    Raises UserError for a file that is not there or cannot be read.
    """
    rules = getattr(config.texts, draft.name)
    files = check(config, draft.name)
    facts = {
        kind: sift(draft, kind, (text for found, text in _texts(files, rules.license) if found == kind), rules)
        for kind in KINDS
    }
    declare(draft, written_by=rules.writer, files=[file.name for file in files], **facts)


def check(config: Config, name: str) -> list[epath.Path]:
    """The files that config.texts.<name>.files names, and those in its directories. Raises UserError for none."""
    names, field = getattr(config.texts, name).files, f"config.texts.{name}.files"
    if not names:
        raise UserError(f"{field} is empty; name the texts to read, .jsonl or .parquet files or directories of such")
    found: list[epath.Path] = []
    for path in map(epath.Path, names):
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        texts = [file for file in inside if file.suffix in _ENDINGS and file.is_file()]
        if not texts:
            raise UserError(f"{field}: {path}: no {' or '.join(_ENDINGS)} file, nor a directory of such; mend the path")
        found += texts
    return found


def _texts(files: Sequence[epath.Path], license: str) -> Iterator[tuple[str, Row]]:
    """(kind, text) for every row of the files; a row that is none is an exercise with a fault."""
    for file in files:
        for number, line in enumerate(_lines(file), 1):
            yield _text(line, {"source": file.name, "path": f"{file.name}:{number}", "license": license})


def _lines(file: epath.Path) -> Iterator[bytes]:
    """The rows of a file in JSON."""
    if file.suffix == ".parquet":
        names = [name for name in documents.schema_of_part(file).names if name in _Given.model_fields]
        yield from (json.dumps(row, default=str).encode() for row in documents.read_part(file, names))
    else:
        with file.open("rb") as lines:
            yield from filter(bytes.strip, lines)


def _text(line: bytes, place: Row) -> tuple[str, Row]:
    """The kind and the text of a row, or why it is none. place: source, path and license of one that names none."""
    try:
        given = _Given.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        fault = Fault("no_text", ": ".join([*map(str, first["loc"][:1]), first["msg"]]))
        return "exercises", judged(place | {"text": line.decode(errors="replace")}, fault)
    kind = given.kind or _KIND_OF.get(given.language or "", "")
    own = given.model_dump(include={"text", *place, "teacher"}, exclude_none=True)
    row = place | own | {"tests": json.dumps(given.tests) if given.tests else None}
    if kind in KINDS:
        return kind, judged(row, None)
    return "exercises", judged(row, Fault("no_text", f"its kind is {kind[:40]!r}, not one of {', '.join(KINDS)}"))
