"""Grades by language models: what is asked of each file, its grade from the votes, and how far the votes agree.

The paper (section 2.1) has GPT-4 "determine its educational value for a student whose goal is to learn basic coding
concepts", and gives no more of the prompt. The rest of prompts/grade.v1.md, the scale of 0 to 10, the reason before the
grade and the votes are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import statistics
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydantic

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import file_digest
from phi_jax.teacher.request import Request, Status
from phi_jax.teacher.teachers import Shares, Teachers
from phi_jax.teacher.templates import fence

PROMPT = "grade.v1"
TOP = 10  # of the votes; a file's grade is their mean divided by it
# What a row has beside the columns of every grader. The lists hold one entry a vote, in the order of their seeds.
COLUMNS = (
    pa.field("votes", pa.list_(pa.int64()), nullable=False),  # 0 to TOP; null where the vote is missing
    pa.field("outcomes", pa.list_(pa.string()), nullable=False),  # what came of the request: a Status
    pa.field("teachers", pa.list_(pa.string()), nullable=False),  # who was asked: a section of config.teachers
    pa.field("explanation", pa.string()),  # reason of the first vote that there is
    pa.field("unseen", pa.int64(), nullable=False),  # bytes that were cut off the file's end
)
_TEMPLATE = Path(__file__).with_name("prompts") / f"{PROMPT}.md"
_BETWEEN = "===\n"  # stands between the system's and the user's message


# The reason stands first, so that a model argues before it decides. No docstring: it would be part of what is sent.
class Grade(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    reason: str
    grade: int = pydantic.Field(ge=0, le=TOP)


def prompt_note() -> dict[str, str]:
    """Version of the template in use, and its SHA-256 (hex)."""
    return {"version": PROMPT, "sha256": file_digest(_TEMPLATE)}


# --- The question --------------------------------------------------------------------------------------------------


def messages(text: str, max_bytes: int) -> tuple[tuple[str, str], ...]:
    """(role, content) of what is asked about a file, of which `max_bytes` bytes of UTF-8 at most are shown.

    The system's message is the same for all files, and comes first: a server can cache it. The file stands between
    two lines with a mark that it does not hold.
    """
    system, user = _template()
    shown, extent = cut(text, max_bytes), "It is shown whole."
    if len(shown) < len(text):
        extent = (
            f"It is long: its first {len(shown)} of {len(text)} characters are shown. Grade what is shown, and do not "
            "hold against it that it breaks off."
        )
    # In one pass: a "$fence" in the file stays what it is.
    asked = user.substitute(fence=fence(shown), extent=extent, file=shown.removesuffix("\n"))
    return ("system", system), ("user", asked)


def cut(text: str, max_bytes: int) -> str:
    """The text's whole lines that fit into `max_bytes` bytes of UTF-8; the start of its first line where none does."""
    data = text.encode()
    if len(data) <= max_bytes:
        return text
    beginning = data[:max_bytes].decode(errors="ignore")
    return beginning[: beginning.rfind("\n") + 1] or beginning


@functools.cache
def _template() -> tuple[str, string.Template]:
    system, user = _TEMPLATE.read_text(encoding="utf-8").split(_BETWEEN)
    return system.strip(), string.Template(user.strip())


# --- The votes -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TaughtGrader:
    """Grades files by votes of the teachers that config.annotate.grader names."""

    faculty: Teachers
    shares: Shares
    rules: Config  # the section `annotate`

    @classmethod
    def of(cls, faculty: Teachers, rules: Config) -> TaughtGrader:
        """Raises UserError for a teacher that is not there and for a field out of its range."""
        for field in ("votes", "max_tokens", "max_file_bytes"):
            if getattr(rules, field) < 1:
                raise UserError(f"config.annotate.{field}={getattr(rules, field)}: must be at least 1")
        if not 0 <= rules.temperature <= 2:
            raise UserError(f"config.annotate.temperature={rules.temperature}: must lie between 0 and 2")
        try:
            return cls(faculty, faculty.shares(rules.grader), rules)
        except UserError as error:
            raise UserError(f"config.annotate.grader={rules.grader!r}: {error}; or use 'static'") from None

    def requests(self, rows: Iterable[documents.Row]) -> Iterator[Request]:
        """The votes of each file, one after the other. What is asked of a file does not depend on the other files."""
        for row in rows:
            yield from (request for _, request in self._votes(row))

    def graded(self, row: documents.Row) -> dict[str, Any]:
        """The row of a file from the replies in the journal. Raises KeyError where a vote was not asked for."""
        replies = [(name, self.faculty.reply(request.key)) for name, request in self._votes(row)]
        votes = [Grade.model_validate_json(r.text) if r.status is Status.ANSWERED else None for _, r in replies]
        given = [vote for vote in votes if vote is not None]
        outcomes = [reply.status.value for _, reply in replies]
        return {
            "id": row["id"],
            "grade": round(sum(vote.grade for vote in given) / len(given) / TOP, 6) if given else None,
            "reason": None if given else f"no vote: {_counted(outcomes)}",
            "grader": self.rules.grader,
            "votes": [vote.grade if vote else None for vote in votes],
            "outcomes": outcomes,
            "teachers": [name for name, _ in replies],
            "explanation": given[0].reason if given else None,
            "unseen": len(row["text"].encode()) - len(cut(row["text"], self.rules.max_file_bytes).encode()),
        }

    def _votes(self, row: documents.Row) -> Iterator[tuple[str, Request]]:
        """(teacher's name, request) of each vote on a file."""
        asked = messages(row["text"], self.rules.max_file_bytes)
        # By the file's id, so that a larger sample and further votes ask nothing of what was asked again.
        first = int(hashlib.sha256(f"votes {row['id']}".encode()).hexdigest()[:16], 16)
        for vote in range(self.rules.votes):
            endpoint = self.shares.endpoint(first + vote)
            yield (
                endpoint.name,
                Request(
                    model=endpoint.model,
                    messages=asked,
                    max_tokens=self.rules.max_tokens,
                    temperature=self.rules.temperature,
                    seed=vote,
                    schema=Grade,
                    label=f"grades/{row['id']}/{vote}",
                ),
            )


# --- How far they agree --------------------------------------------------------------------------------------------


def facts_of_votes(rows: Sequence[Mapping[str, Any]], threshold: float | None) -> dict[str, Any]:
    """Figures of the rows' votes. threshold: the grade, 0 to 1, from which a file is labelled high."""
    outcomes = Counter(outcome for row in rows for outcome in row["outcomes"])
    by_teacher: dict[str, list[int]] = {}
    for row in rows:
        for name, vote in zip(row["teachers"], row["votes"], strict=True):
            if vote is not None:
                by_teacher.setdefault(name, []).append(vote)
    several = [votes for row in rows if len(votes := [v for v in row["votes"] if v is not None]) > 1]
    same = [
        len({round(vote / TOP, 6) >= threshold for vote in votes}) == 1 for votes in several if threshold is not None
    ]
    return {
        "votes": sum(outcomes.values()),
        "votes_missing": {status: n for status, n in sorted(outcomes.items()) if status != Status.ANSWERED},
        "agreement": {
            "files": len(several),  # with two votes or more
            "alpha": _rounded(krippendorff_alpha(several)),
            "same_label": _rounded(statistics.fmean(same) if same else None),
            # Of one file's votes, on the scale of 0 to TOP.
            "standard_deviation": _rounded(statistics.fmean(map(_deviation, several)) if several else None),
        },
        "mean_vote_by_teacher": {name: _rounded(statistics.fmean(votes)) for name, votes in sorted(by_teacher.items())},
        "cut_files": sum(row["unseen"] > 0 for row in rows),
        "unseen_bytes": sum(row["unseen"] for row in rows),
    }


def krippendorff_alpha(units: Iterable[Sequence[int]]) -> float | None:
    """Krippendorff's alpha for interval data: 1 - observed / expected disagreement.

    units: the values given to each unit; units of fewer than two values count nothing. 1 is full agreement, 0 what
    chance gives; None where no two values differ. Source: K. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011), section C with the squared difference as metric.
    """
    count = total = squares = 0  # of all values, their sum and that of their squares
    within = 0.0  # squared differences of all ordered pairs within units, each unit's divided by its values less 1
    for values in units:
        if len(values) > 1:
            within += _squared_differences(*_sums(values)) / (len(values) - 1)
            count, total, squares = (a + b for a, b in zip((count, total, squares), _sums(values), strict=True))
    across = _squared_differences(count, total, squares)
    return 1 - (count - 1) * within / across if across else None


def _sums(values: Sequence[int]) -> tuple[int, int, int]:
    return len(values), sum(values), sum(value * value for value in values)


def _squared_differences(count: int, total: int, squares: int) -> int:
    """Sum of (a - b)^2 over all ordered pairs of `count` whole numbers, from their sum and that of their squares."""
    return 2 * (count * squares - total * total)


def _deviation(values: Sequence[int]) -> float:
    """Standard deviation of a sample of two values or more; statistics.stdev takes 17 times as long."""
    count, total, squares = _sums(values)
    return math.sqrt(_squared_differences(count, total, squares) / (2 * count * (count - 1)))


def _counted(outcomes: Sequence[str]) -> str:
    return ", ".join(f"{n} {outcome}" for outcome, n in sorted(Counter(outcomes).items()))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
