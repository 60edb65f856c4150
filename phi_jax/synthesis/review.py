"""What becomes of a text that a model or somebody wrote: tidied, run, compared with the others; kept, or set aside with
the reason.

Texts are checked 1,000 at a time, and what came of them is written, so that a killed stage goes on; then copies are
left out and the outputs written. What is written is a function of the texts: not of time, nor of where a run was cut.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.store import documents
from phi_jax.store.artifact import Draft
from phi_jax.store.near_copies import Rules, find_copies
from phi_jax.store.rows import Row, plain
from phi_jax.synthesis.boilerplate import without_boilerplate
from phi_jax.synthesis.llm import run_checks
from phi_jax.synthesis.llm.exercises import Written, check_exercises
from phi_jax.synthesis.llm.textbooks import read_section
from phi_jax.synthesis.outputs import CHECKED, LANGUAGES, Fault, Sorted, judged

# A writer gives rows of these columns but for id, language and boilerplate, which have gone through outputs.judged. A
# null that may be one may be missing.
SCHEMA = pa.schema(
    [
        *documents.SCHEMA,
        ("lesson", pa.string()),  # JSON of the Lesson; null where there was none
        ("teacher", pa.string()),  # model that wrote it, as its server calls it; null = unknown
        ("tests", pa.string()),  # exercises: JSON list of tests; null where there are none
        ("boilerplate", pa.bool_()),  # whether some was taken away
    ]
)
_TEXTS_PER_PART = 1000


def requested(rules: Config) -> dict[str, int]:
    """Texts of each kind that are asked for. rules: the text entry's."""
    asked = {"textbooks": rules.textbook_requests, "exercises": rules.exercise_requests}
    return {kind: round(count * rules.share) for kind, count in asked.items()}


def check(kind: str, texts: Iterable[Row], label: str, rules: Config) -> list[Row]:
    """The rows of the texts, tidied and run; `code` and `reason` say why one is set aside, None where it passed.

    rules: the text entry's, of which `sandbox` and `sandbox_workers` are read.
    """
    rows = [_tidied(kind, text) for text in texts]
    passed = [row for row in rows if row["code"] is None]
    box = {"sandbox": rules.sandbox, "workers": rules.sandbox_workers}
    if kind == "textbooks":
        faults = run_checks.check([row["text"] for row in passed], read_section, label, **box)
    else:
        exercises = [
            Written(
                row["text"],
                json.loads(row.get("tests") or "null"),
                json.loads(row.get("lesson") or "{}").get("name"),
            )
            for row in passed
        ]
        faults = check_exercises(exercises, label, **box)
    for row, fault in zip(passed, faults, strict=True):
        row |= judged(row, fault)
    return rows


def _tidied(kind: str, given: Row) -> Row:
    text = plain(given["text"])
    tidy = without_boilerplate(text) if kind == "textbooks" else text.strip("\n") + "\n"
    raw = given | {"text": tidy, "language": LANGUAGES[kind]}
    row: Row = {name: value and value.encode(errors="replace").decode() for name, value in raw.items()}
    if row != raw and row["code"] is None:
        row |= judged(row, Fault("no_text", "it holds half a surrogate pair"))
    removed = kind == "textbooks" and tidy != text
    return row | {"id": documents.document_id(row["text"]), "boilerplate": removed}


def sift(
    draft: Draft, kind: str, texts: Iterable[Any], rules: Config, write: Callable[[list[Any]], Iterable[Row]] = list
) -> dict[str, int]:
    """Checks the texts of a kind, leaves out copies, and writes the parts of the outputs. Returns facts:
    how many texts had boilerplate, and how many of all were different.

    rules: the text entry's; `near_copy_threshold` is read, and what `check` reads. write: makes texts of what stands
    for them, just before they are checked. Parts that are there are not made again.
    """
    label = f"{draft.label} {kind}"
    checked = Sorted(draft.directory / CHECKED, kind, SCHEMA)
    checked.write(texts, lambda chunk: check(kind, write(chunk), label, rules), _TEXTS_PER_PART)
    scratch = draft.directory / CHECKED / "signatures" / kind
    copies = find_copies(checked.passed, Rules(rules.near_copy_threshold), scratch, label=f"{label}: near copies")
    kept = _without_copies(documents.read(checked.passed, SCHEMA.names), copies["kept"].to_pylist())
    failed = documents.read(checked.failed, (*SCHEMA.names, "code", "reason"))
    Sorted(draft.directory, kind, SCHEMA).write(itertools.chain(kept, failed), list, _TEXTS_PER_PART)
    sides = (checked.passed, checked.failed)
    told = [(row["id"], row["boilerplate"]) for side in sides for row in documents.read(side, ("id", "boilerplate"))]
    return {"boilerplate_removed": sum(removed for _, removed in told), "different": len(dict(told))}


def _without_copies(rows: Iterable[Row], copies: Iterable[str | None]) -> Iterator[Row]:
    """All rows; those that are copies with the reason. copies: id of the text kept in each one's place, or None."""
    seen: set[str] = set()
    for row, kept in zip(rows, copies, strict=True):
        fault = None
        if kept not in (None, row["id"]):
            fault = Fault("near_copy", f"near copy of {kept}")
        elif row["id"] in seen:
            fault = Fault("identical", "the same text stands above")
        seen.add(row["id"])
        yield judged(row, fault)
