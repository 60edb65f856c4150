"""Stage `synthesize` with texts that somebody has: they pass the checks that a teacher's texts pass.

Read are files of rows (store/rows.py) on this machine, in an object store or on the Hub, by row {"kind": "textbooks" or
"exercises", "text": ...}, for an exercise also {"tests": a list of assert statements}, as it is or in JSON. A document
set of ours is such a file too: where there is no kind, the language says it, else the entry. An exercise without tests
is run, and its examples hold. Taken over where a row has them: source, path, license, teacher. Files may call them
otherwise: the entry says how.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Json, ValidationError

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.progress import note
from phi_jax.store import hub
from phi_jax.store.artifact import Draft, Inputs
from phi_jax.store.rows import ENDINGS, Given, Row, escaped, files_below, named_columns, normal, read_rows, renamed
from phi_jax.synthesis.outputs import KINDS, LANGUAGES, Fault, declare, judged
from phi_jax.synthesis.review import sift

_File = tuple[str, str, Any]  # (source and path as documents name them, where it lies)
_KIND_OF = {language: kind for kind, language in LANGUAGES.items()}  # where a row has no kind
# Of an entry that was written before there were these fields.
_LATER = Config({"columns": (), "kind": "", "teacher": "", "terms": ""})


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


def synthesize(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, code, reason, text). Rows that are neither are set aside with the reason, among the "exercises".

    Raises UserError for a file that is not there or cannot be read.
    """
    rules = getattr(config.texts, draft.name).over(_LATER)
    for line in check(config, draft.name):
        note(line)
    files = [file for source in rules.files for file in _files(source, draft.name)]
    facts = {
        kind: sift(draft, kind, (text for found, text in _texts(files, rules, draft.name) if found == kind), rules)
        for kind in KINDS
    }
    declare(
        draft, written_by=rules.writer, files=[path for _, path, _ in files],
        license=rules.license, teacher=rules.teacher, terms=rules.terms, **facts,
    )  # fmt: skip


def check(config: Config, name: str) -> Iterator[str]:
    """What is to be known of the texts: where they come from, their licence, whose terms hold.

    Raises UserError where there is nothing to read.
    """
    rules, field = getattr(config.texts, name).over(_LATER), f"config.texts.{name}"
    if not rules.files:
        raise UserError(
            f"{field}.files is empty; name the texts to read: files in {', '.join(ENDINGS)}, or directories of such"
        )
    _columns(rules, name)
    for source in rules.files:
        found = hub.pin(source) if hub.is_hub(source) else _files(source, name) and source
        writer = rules.teacher or "whoever its rows name"
        yield f"texts.{name}: {found}: licence {rules.license}, written by {writer}. {rules.terms}".rstrip()


def _columns(rules: Config, name: str) -> dict[str, list[str]]:
    return named_columns(rules.columns, f"config.texts.{name}.columns", tuple(_Said.model_fields))


def _files(source: str, name: str) -> list[_File]:
    """What config.texts.<name>.files names by `source`. Raises UserError for nothing, and for what is no file."""
    if hub.is_hub(source):
        return hub.fetch(source, ENDINGS)
    texts = files_below(source, ENDINGS) if source else []
    lost = [file for file in texts if not file.is_file()]
    if lost or not texts:
        raise UserError(
            f"config.texts.{name}.files: {[*lost, source][0]}: no regular file in {', '.join(ENDINGS)}, nor a "
            "directory of such; name what can be read"
        )
    return [(escaped(file.name), escaped(file.name), file) for file in texts]


def _texts(files: Sequence[_File], rules: Config, name: str) -> Iterator[tuple[str, Row]]:
    """(kind, text) for every row of the files; a row that is none is an exercise with a fault."""
    columns = _columns(rules, name)
    wanted = (*_Said.model_fields, *itertools.chain.from_iterable(columns.values()))
    about = {"license": rules.license, "teacher": rules.teacher or None}
    for source, path, file in files:
        for number, row in enumerate(read_rows(file, wanted), 1):
            ours = row._replace(row=renamed(row.row, columns))
            yield _text(ours, {"source": source, "path": f"{path}:{number}", **about}, rules.kind)


def _text(given: Given, place: Row, default: str) -> tuple[str, Row]:
    """The kind and the text of a row, or why it is none. place: source, path, license and teacher of one that names
    none; default: its kind.
    """
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
    kind = said.kind or _KIND_OF.get(said.language or "", "") or default
    own = said.model_dump(include={"text", *place}, exclude_none=True)
    row = place | own | {"tests": json.dumps(said.tests) if said.tests else None}
    if kind in KINDS:
        return kind, judged(row, None)
    return "exercises", judged(row, Fault("no_text", f"its kind is {kind[:40]!r}, not one of {', '.join(KINDS)}"))
