"""What becomes of a text that a model or somebody wrote: tidied, run, compared with the others; kept, or set aside with
the reason.

A reviewer checks the texts of one kind in batches (the first tries, the second ones), 1,000 at a time, and writes what
passed and what failed, so that a killed stage goes on; `publish` then leaves out copies and writes the outputs.
What is written is a function of the texts: not of time, nor of where a run was cut.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.store import documents
from phi_jax.store.artifact import Draft
from phi_jax.store.documents import Row
from phi_jax.store.near_copies import Rules, decide, find_pairs
from phi_jax.synthesis.boilerplate import without_boilerplate
from phi_jax.synthesis.llm.exercises import Written, check_exercises
from phi_jax.synthesis.llm.textbooks import check_textbooks
from phi_jax.synthesis.outputs import LANGUAGES, Fault, Sorted, judged, outputs_of

SCHEMA = pa.schema(
    [
        *documents.SCHEMA,
        pa.field("lesson", pa.string()),  # JSON of the Lesson; null where there was none
        pa.field("teacher", pa.string()),  # model that wrote it, as its server calls it; null = unknown
        pa.field("tests", pa.string()),  # exercises: JSON list of tests; null where there are none
        pa.field("boilerplate", pa.bool_()),  # whether some was taken away
    ]
)
_TEXTS_PER_PART = 1000
_CHECKED_DIRECTORY = "checked"  # of a draft


@dataclasses.dataclass(frozen=True)
class Submission:
    """A text that may become a document. Its kind decides how it is checked: one of outputs.LANGUAGES."""

    path: str  # within its source
    text: str  # Markdown of a textbook section, code of an exercise
    source: str
    license: str
    tests: tuple[str, ...] | None = None  # of an exercise; None = it has none and is only run
    name: str | None = None  # that its function must have; None = any
    lesson: str | None = None  # JSON of the Lesson
    teacher: str | None = None
    fault: Fault | None = None  # why it is set aside without being looked at


def check(kind: str, submissions: Sequence[Submission], label: str, rules: Config) -> list[Row]:
    """The rows of the texts, tidied and run; `code` and `reason` say why one is set aside, None where it passed.

    rules: the text entry's, of which `sandbox` and `sandbox_workers` are read.
    """
    rows = [_row(kind, submission) for submission in submissions]
    passed = [(row, given) for row, given in zip(rows, submissions, strict=True) if row["code"] is None]
    box = {"sandbox": rules.sandbox, "workers": rules.sandbox_workers}
    if kind == "textbooks":
        faults = check_textbooks([row["text"] for row, _ in passed], label, **box)
    else:
        exercises = [Written(row["text"], given.tests) for row, given in passed]
        faults = check_exercises(exercises, [given.name for _, given in passed], label, **box)
    for (row, _), fault in zip(passed, faults, strict=True):
        row |= judged(row, fault)
    return rows


def _row(kind: str, submission: Submission) -> Row:
    given = submission.text.removeprefix("\ufeff").replace("\r\n", "\n")
    text = without_boilerplate(given) if kind == "textbooks" else given.strip("\n") + "\n"
    tests = None if submission.tests is None else json.dumps(submission.tests)
    own = {name: value for name, value in vars(submission).items() if name in SCHEMA.names}
    own |= {"text": text, "tests": tests, "language": LANGUAGES[kind]}
    row: Row = {name: value and value.encode(errors="replace").decode() for name, value in own.items()}
    broken = [name for name in row if row[name] != own[name]]
    fault = Fault("no_text", f"its {broken[0]} holds half a surrogate pair") if broken else None
    row |= {"id": documents.document_id(row["text"]), "boilerplate": kind == "textbooks" and text != given}
    return judged(row, submission.fault or fault)


class Reviewer:
    """Checks texts of one kind and writes the accepted ones. batches: what came of those reviewed so far."""

    def __init__(self, draft: Draft, kind: str, rules: Config) -> None:
        """rules: the text entry's; `near_copy_threshold` is read, and what `check` reads."""
        self.kind, self._draft, self._rules = kind, draft, rules
        self.batches: list[Sorted] = []

    def review(self, submissions: Iterable[Submission]) -> None:
        """Checks one more batch of texts, and writes what came of them; parts that are there are not made again."""
        directory = self._draft.directory / _CHECKED_DIRECTORY / self.kind / f"batch-{len(self.batches) + 1}"
        self.batches.append(Sorted(directory / "passed", directory / "failed", SCHEMA))
        label = f"{self._draft.label} {self.kind}"
        self.batches[-1].write(submissions, lambda chunk: check(self.kind, chunk, label, self._rules), _TEXTS_PER_PART)

    def failed(self, batch: int) -> Iterator[Row]:
        """The rows that were set aside in a batch, in their order."""
        return documents.read(self.batches[batch].failed, (*SCHEMA.names, "code", "reason"))

    def publish(self) -> dict[str, int]:
        """Leaves out copies, and writes the parts of the outputs. Returns facts."""
        passed = [batch.passed for batch in self.batches]
        gone: dict[str, tuple[str, float]] = {}
        if any(documents.totals(directory).rows for directory in passed):
            label = f"{self._draft.label} {self.kind}: near copies"
            gone = decide(find_pairs(passed, Rules(self._rules.near_copy_threshold), label=label))
        kept = _without_copies((row for directory in passed for row in documents.read(directory, SCHEMA.names)), gone)
        output = outputs_of(self._draft, self.kind, SCHEMA)
        output.write(itertools.chain(kept, *map(self.failed, range(len(passed)))), list, _TEXTS_PER_PART)
        texts = (row for side in (output.passed, output.failed) for row in documents.read(side, ("boilerplate",)))
        return {"boilerplate_removed": sum(row["boilerplate"] for row in texts)}


def _without_copies(rows: Iterable[Row], gone: Mapping[str, tuple[str, float]]) -> Iterator[Row]:
    """All rows; those that are copies with the reason."""
    seen: set[str] = set()
    for row in rows:
        fault = Fault("identical", "the same text stands above") if row["id"] in seen else None
        if row["id"] in gone:
            fault = Fault("near_copy", f"near copy of {gone[row['id']][0]}")
        seen.add(row["id"])
        yield judged(row, fault)


def clear(draft: Draft) -> None:
    """Removes what only a killed run needs."""
    (draft.directory / _CHECKED_DIRECTORY).rmtree()
