"""Stage `synthesize` with texts that somebody has: they pass the checks that a teacher's texts pass.

Read are files of rows (store/rows.py), by row {"kind": "textbooks" or "exercises", "text": ...}, for an exercise also
{"tests": a list of assert statements}, as it is or in JSON. A document set of ours is such a file too: where there is
no kind, the language says it. An exercise without tests is run, and its examples hold. Taken over where a row has them:
source, path, license, teacher.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from etils import epath
from pydantic import BaseModel, Json, ValidationError

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store.artifact import Artifact, Draft
from phi_jax.store.rows import ENDINGS, Given, Row, escaped, files_below, normal, read_rows
from phi_jax.synthesis.outputs import KINDS, LANGUAGES, Fault, declare, judged
from phi_jax.synthesis.review import sift

_KIND_OF = {language: kind for kind, language in LANGUAGES.items()}  # where a row has no kind


class _Said(BaseModel):
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
    declare(draft, written_by=rules.writer, files=[escaped(file.name) for file in files], **facts)


def check(config: Config, name: str) -> list[epath.Path]:
    """The files that config.texts.<name>.files names, and those in its directories. Raises UserError for none."""
    names, field = getattr(config.texts, name).files, f"config.texts.{name}.files"
    kinds = ", ".join(ENDINGS)
    if not names:
        raise UserError(f"{field} is empty; name the texts to read: files in {kinds}, or directories of such")
    found: list[epath.Path] = []
    for path in names:
        texts = files_below(path, ENDINGS) if path else []
        lost = [file for file in texts if not file.is_file()]
        if lost or not texts:
            raise UserError(
                f"{field}: {[*lost, path][0]}: no regular file in {kinds}, nor a directory of such; mend it"
            )
        found += texts
    return found


def _texts(files: Sequence[epath.Path], license: str) -> Iterator[tuple[str, Row]]:
    """(kind, text) for every row of the files; a row that is none is an exercise with a fault."""
    for file in files:
        name = escaped(file.name)
        for number, row in enumerate(read_rows(file, tuple(_Said.model_fields)), 1):
            yield _text(row, {"source": name, "path": f"{name}:{number}", "license": license})


def _text(given: Given, place: Row) -> tuple[str, Row]:
    """The kind and the text of a row, or why it is none. place: source, path and license of one that names none."""
    try:
        if given.fault:
            raise ValueError(given.fault)
        said = _Said.model_validate({n: normal(v) if isinstance(v, str | bytes) else v for n, v in given.row.items()})
    except ValueError as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([*map(str, first["loc"][:1]), first["msg"]])
        whole = given.line.decode(errors="replace") or json.dumps(given.row, default=str)
        return "exercises", judged(place | {"text": whole}, Fault("no_text", reason))
    kind = said.kind or _KIND_OF.get(said.language or "", "")
    own = said.model_dump(include={"text", *place, "teacher"}, exclude_none=True)
    row = place | own | {"tests": json.dumps(said.tests) if said.tests else None}
    if kind in KINDS:
        return kind, judged(row, None)
    return "exercises", judged(row, Fault("no_text", f"its kind is {kind[:40]!r}, not one of {', '.join(KINDS)}"))
