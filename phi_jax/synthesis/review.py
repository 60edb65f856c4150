"""What becomes of a written text, whoever wrote it: tidied, run, compared with the others; kept, or set aside with the
reason.

A desk takes the texts of one kind in turns (the first tries, the second ones), 1,000 at a time, and writes what passed
and what failed, so that a killed stage goes on; `publish` then leaves out copies and writes what the artifact holds.
What is written is a function of the texts: not of time, nor of where a run was cut.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Draft
from phi_jax.store.documents import Row
from phi_jax.synthesis import diversity
from phi_jax.synthesis.boilerplate import without_boilerplate
from phi_jax.synthesis.copies import near_copies
from phi_jax.synthesis.curriculum import Lesson
from phi_jax.synthesis.exercises import check_exercises
from phi_jax.synthesis.prompts import Exercise
from phi_jax.synthesis.textbooks import check_textbooks

SCHEMA = pa.schema(
    [
        *documents.SCHEMA,
        pa.field("lesson", pa.string()),  # JSON of the Lesson; null where there was none
        pa.field("teacher", pa.string()),  # model that wrote it, as its server calls it; null = unknown
        pa.field("tests", pa.string()),  # exercises: JSON list of tests; null where there are none
    ]
)
NO_ANSWER, IDENTICAL, NEAR_COPY = "no answer", "identical text", "near copy"
# Groups of reasons -> how a reason of the group begins.
_GROUPS = {
    NO_ANSWER: r"no answer",
    "refused": r"refused",
    "filtered": r"filtered",
    "cut off": r"cut off",
    IDENTICAL: r"identical text",
    NEAR_COPY: r"near copy",
    "no text": r"no text|no JSON object",
    "another form": r"it has no Python block|the fence|block \d+ is empty|it is longer than|the code's line|"
    r"the code defines|\w+ has no (docstring|body)|it tampers",
    "cannot be read": r"the code (does not parse|is nested)|(block|test) \d+ (does not parse|an example cannot)|"
    r"block \d+ .*cannot be read|an example cannot",
    "an example is wrong": r"(block \d+: )?the example",
    "prints something else": r"block \d+ prints",
    "does not run": r"block \d+|the code does not run|the candidate|a malformed message|a message above",
    "a test fails": r"test \d+ .* fails:",
    "no tests to speak of": r"it has \d+ different tests|test \d+ |the tests call no",
    "tests notice too little": r"the tests (pass with|notice only)",
    "varies": r"the tests pass once|with sets in another order",
    "too slow": r"timed out|it takes too long",
}  # fmt: skip
_OTHER = "another reason"
_CHECKED = SCHEMA.append(pa.field("boilerplate", pa.bool_())).append(pa.field("reason", pa.string()))
_SET_ASIDE = pa.schema([("path", pa.string()), ("reason", pa.string()), ("text", pa.large_string())])
_TEXTS_PER_PART = 1000
_CHECKED_DIRECTORY = "checked"  # of a draft
_LANGUAGES = {"textbooks": "markdown", "exercises": "python"}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Submission:
    """A text that may become a document. Its kind decides how it is checked: one of curriculum.KINDS."""

    path: str  # within its source
    text: str  # Markdown of a textbook section, code of an exercise
    source: str
    license: str
    tests: tuple[str, ...] | None = None  # of an exercise; None = it has none and is only run
    name: str | None = None  # that its function must have; None = any
    lesson: Lesson | None = None
    teacher: str | None = None
    problem: str = ""  # why it is set aside without being looked at


def group(reason: str) -> str:
    """The group of a reason, under which it is counted."""
    return next((name for name, pattern in _GROUPS.items() if re.match(pattern, reason)), _OTHER)


def judge(kind: str, submissions: Sequence[Submission], label: str, rules: Config) -> list[Row]:
    """The rows of the texts, tidied and run; `reason` says why one is set aside, and is None where it passed.

    rules: config.synthesize.
    """
    rows = [_row(kind, submission) for submission in submissions]
    with_tests: list[int] = []  # places in `rows`
    without: list[int] = []
    for place, (row, submission) in enumerate(zip(rows, submissions, strict=True)):
        if row["reason"] is None:
            (without if kind == "textbooks" or submission.tests is None else with_tests).append(place)
    how: dict[str, Any] = {"sandbox": rules.sandbox, "workers": rules.sandbox_workers}
    if with_tests:
        exercises = [Exercise(code=submissions[i].text, tests=list(submissions[i].tests or ())) for i in with_tests]
        verdicts = check_exercises(exercises, [submissions[i].name for i in with_tests], label, **how)
        for place, verdict in zip(with_tests, verdicts, strict=True):
            rows[place]["reason"] = verdict
    if without:
        texts = [rows[i]["text"] if kind == "textbooks" else _as_section(rows[i]["text"]) for i in without]
        for place, verdict in zip(without, check_textbooks(texts, label, **how), strict=True):
            rows[place]["reason"] = verdict
    return rows


def _as_section(code: str) -> str:
    """An exercise without tests is run as a section of one block: it runs, and its examples hold."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}python\n{code}\n{fence}\n"


def _row(kind: str, submission: Submission) -> Row:
    given = submission.text.encode(errors="replace").decode()  # half a surrogate pair cannot be written
    text = without_boilerplate(given) if kind == "textbooks" else given.strip("\n") + "\n"
    problem = submission.problem or ("" if given == submission.text else "no text: it holds half a surrogate pair")
    return {
        "id": documents.document_id(text),
        "text": text,
        "source": submission.source,
        "path": submission.path,
        "license": submission.license,
        "language": _LANGUAGES[kind],
        "lesson": None if submission.lesson is None else json.dumps(dataclasses.asdict(submission.lesson)),
        "teacher": submission.teacher,
        "tests": None if submission.tests is None else json.dumps(submission.tests),
        "boilerplate": kind == "textbooks" and text.strip() != given.strip(),
        "reason": problem or None,
    }


class Desk:
    """Takes the texts of one kind into a draft. `turns`: how often it was given some."""

    def __init__(self, draft: Draft, kind: str, rules: Config) -> None:
        """rules: config.synthesize. Raises UserError for one out of range."""
        if not 0 < rules.near_copy_threshold <= 1:
            raise UserError(
                f"config.synthesize.near_copy_threshold={rules.near_copy_threshold}: a Jaccard similarity; "
                "use one in (0, 1]"
            )
        self.kind, self._draft, self._rules = kind, draft, rules
        self._checked = draft.directory / _CHECKED_DIRECTORY / kind
        self._label = f"{draft.label} {kind}"
        self.turns = 0

    def review(self, items: Iterable[T], total: int, submission: Callable[[T], Submission]) -> None:
        """Judges one more turn of texts, `total` for the progress, and writes what came of them. submission: makes the
        text of an item; it is not called for the items of a part that an earlier run has written.
        """
        self.turns += 1
        passed, failed = self._directory(self.turns, "passed"), self._directory(self.turns, "failed")
        for directory in (passed, failed):
            directory.mkdir(parents=True, exist_ok=True)
        for index, chunk in enumerate(_chunks(items)):
            if documents.part_path(failed, index).exists():  # written after the part of those that passed
                continue
            label = f"{self._label} from {index * _TEXTS_PER_PART:,} of {total:,}"
            rows = judge(self.kind, list(map(submission, chunk)), label, self._rules)
            documents.write_part(passed, index, [row for row in rows if row["reason"] is None], _CHECKED)
            documents.write_part(failed, index, [row for row in rows if row["reason"] is not None], _CHECKED)

    def failed(self, turn: int) -> Iterator[Row]:
        """The rows that were set aside in a turn (the first is 1), in their order."""
        return documents.read(self._directory(turn, "failed"), _CHECKED.names)

    def publish(self) -> dict[str, Any]:
        """Leaves out copies, writes the outputs, and declares the documents. Returns the facts: of the texts `written`,
        those `kept` and those `set_aside`, by group of `reasons`.
        """
        turns = range(1, self.turns + 1)
        passed = [self._directory(turn, "passed") for turn in turns]
        gone: dict[str, str] = {}
        if sum(map(documents.count, passed)):
            gone = near_copies(passed, self._rules.near_copy_threshold, label=f"{self._label}: near copies")
        kept = _Parts(self._draft.directory / self.kind, SCHEMA)
        aside = _Parts(self._draft.directory / "set_aside" / self.kind, _SET_ASIDE)
        facts: Counter[str] = Counter(boilerplate_removed=0, bytes=0)
        reasons: Counter[str] = Counter()
        for row in self._final(passed, gone):
            facts["boilerplate_removed"] += row["boilerplate"]
            if row["reason"] is None:
                facts["bytes"] += len(row["text"].encode())
                kept.add(row)
            else:
                reasons[group(row["reason"])] += 1
                aside.add(row)
        kept.close()
        aside.close()
        self._draft.add_output(
            self.kind, self.kind, kind="documents", digest=documents.digest(kept.directory), rows=kept.rows
        )
        return {
            "written": kept.rows + aside.rows,
            "kept": kept.rows,
            "set_aside": aside.rows,
            "reasons": dict(sorted(reasons.items())),
            **facts,
            "diversity": diversity.measure(row["text"] for row in documents.read(kept.directory, ("text",))),
        }

    def _directory(self, turn: int, name: str) -> Any:
        return self._checked / f"turn-{turn}-{name}"

    def _final(self, passed: Sequence[Any], gone: dict[str, str]) -> Iterator[Row]:
        """All texts; those that are copies with the reason."""
        seen: set[bytes] = set()
        for directory in passed:
            for row in documents.read(directory, _CHECKED.names):
                identifier = bytes.fromhex(row["id"])
                if row["id"] in gone:
                    row["reason"] = f"{NEAR_COPY} of {gone[row['id']]}"
                elif identifier in seen:
                    row["reason"] = IDENTICAL
                seen.add(identifier)
                yield row
        for turn in range(1, len(passed) + 1):
            yield from self.failed(turn)


def clear(draft: Draft) -> None:
    """Removes what only a killed run needs."""
    (draft.directory / _CHECKED_DIRECTORY).rmtree()


class _Parts:
    """Writes rows as parts of a directory, at least one; a part that is there is not written again."""

    def __init__(self, directory: Any, schema: pa.Schema) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._schema = directory, schema
        self.rows = 0
        self._index = 0
        self._waiting: list[Row] = []

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) == _TEXTS_PER_PART:
            self._write()

    def close(self) -> None:
        if self._waiting or not self._index:
            self._write()

    def _write(self) -> None:
        if not documents.part_path(self.directory, self._index).exists():
            documents.write_part(self.directory, self._index, self._waiting, self._schema)
        self._waiting, self._index = [], self._index + 1


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """At least one, which may be empty: what a turn wrote is then there to be read."""
    iterator = iter(items)
    chunk = list(islice(iterator, _TEXTS_PER_PART))
    yield chunk
    while chunk := list(islice(iterator, _TEXTS_PER_PART)):
        yield chunk
