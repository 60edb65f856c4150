"""Grades by language models: what is asked of each file, its grade from the votes, and how far the votes agree.

The paper (section 2.1) has GPT-4 "determine its educational value for a student whose goal is to learn basic coding
concepts", and gives no more of the prompt. The rest of prompts/grade.v1.md, the scale of 0 to 10, the reason before the
grade and the votes are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pydantic

from phi_jax.config import Config
from phi_jax.store import documents
from phi_jax.teacher.request import Status
from phi_jax.teacher.teachers import Teachers
from phi_jax.teacher.templates import fence, read_template
from phi_jax.teacher.votes import Question, Voters

TOP = 10  # of the votes; a file's grade is their mean divided by it
# What a row has beside the columns of every grader. The lists hold one entry a vote, in the order of their seeds.
COLUMNS = (
    pa.field("votes", pa.list_(pa.int64()), nullable=False),  # 0 to TOP; null where the vote is missing
    pa.field("outcomes", pa.list_(pa.string()), nullable=False),  # what came of the request: a Status
    pa.field("teachers", pa.list_(pa.string()), nullable=False),  # who was asked: a section of config.teachers
    pa.field("explanation", pa.string()),  # reason of the first vote that there is
    pa.field("unseen", pa.int64(), nullable=False),  # bytes that were cut off the file's end
)
TEMPLATE = Path(__file__).with_name("prompts") / "grade.v1.md"


# The reason stands first, so that a model argues before it decides. No docstring: it would be part of what is sent.
class Grade(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    reason: str
    grade: int = pydantic.Field(ge=0, le=TOP)


# --- The question and the votes ------------------------------------------------------------------------------------


def voters_of(teachers: Teachers, rules: Config) -> Voters:
    """The teachers that config.annotate.grader names, and how often each file is asked about."""
    shares = teachers.shares(rules.grader)
    return Voters(teachers, shares, Grade, "grades", rules.votes, rules.max_tokens, rules.temperature)


def question_of(row: documents.Row, max_bytes: int) -> Question:
    """What is asked about a file, of which `max_bytes` bytes of UTF-8 at most are shown.

    The file stands between two lines with a mark that it does not hold.
    """
    text = row["text"]
    shown, extent = cut(text, max_bytes), "It is shown whole."
    if len(shown) < len(text):
        extent = (
            f"It is long: its first {len(shown)} of {len(text)} characters are shown. Grade what is shown, and do not "
            "hold against it that it breaks off."
        )
    template = read_template(TEMPLATE)
    return Question(row["id"], template.messages(fence=fence(shown), extent=extent, file=shown.removesuffix("\n")))


def cut(text: str, max_bytes: int) -> str:
    """The text's whole lines that fit into `max_bytes` bytes of UTF-8; the start of its first line where none does."""
    data = text.encode()
    if len(data) <= max_bytes:
        return text
    beginning = data[:max_bytes].decode(errors="ignore")
    return beginning[: beginning.rfind("\n") + 1] or beginning


def graded(row: documents.Row, voters: Voters, rules: Config) -> documents.Row:
    """The row of a file, from the replies in the journal. Raises KeyError where a vote was not asked for."""
    votes = voters.votes_on(question_of(row, rules.max_file_bytes))
    answers: list[Any] = [vote.answer for vote in votes]
    given = [answer for answer in answers if answer]
    outcomes = [vote.outcome for vote in votes]
    missing = ", ".join(f"{n} {outcome}" for outcome, n in sorted(Counter(outcomes).items()))
    return {
        "id": row["id"],
        "grade": round(sum(answer.grade for answer in given) / len(given) / TOP, 6) if given else None,
        "reason": None if given else f"no vote: {missing}",
        "grader": rules.grader,
        "votes": [answer.grade if answer else None for answer in answers],
        "outcomes": outcomes,
        "teachers": [vote.teacher for vote in votes],
        "explanation": given[0].reason if given else None,
        "unseen": len(row["text"].encode()) - len(cut(row["text"], rules.max_file_bytes).encode()),
    }


# --- How far they agree --------------------------------------------------------------------------------------------


def facts_of_votes(rows: Sequence[Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    """Figures of the rows' votes. threshold: the grade, 0 to 1, from which a file is labelled high."""
    outcomes = Counter(outcome for row in rows for outcome in row["outcomes"])
    several = [votes for row in rows if len(votes := [v for v in row["votes"] if v is not None]) > 1]
    same = [len({round(vote / TOP, 6) >= threshold for vote in votes}) == 1 for votes in several]
    alpha = krippendorff_alpha(several)
    return {
        "votes": sum(outcomes.values()),
        "votes_missing": {status: n for status, n in sorted(outcomes.items()) if status != Status.ANSWERED},
        "agreement": {
            "files": len(several),  # with two votes or more
            "alpha": None if alpha is None else round(alpha, 6),
            "same_label": mean(same),
        },
        "cut_files": sum(row["unseen"] > 0 for row in rows),
    }


def krippendorff_alpha(units: Iterable[Sequence[int]]) -> float | None:
    """Krippendorff's alpha for interval data: 1 - observed / expected disagreement.

    units: the values given to each unit; units of fewer than two values count nothing. 1 is full agreement, 0 what
    chance gives; None where no two values differ. Source: K. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011), section C with the squared difference as metric; here in terms of variances.
    """
    several = [values for values in units if len(values) > 1]
    everything = [value for values in several for value in values]
    across = len(everything) * np.var(everything, ddof=1) if several else 0.0
    within = sum(len(values) * np.var(values, ddof=1) for values in several)
    return float(1 - within / across) if across else None


def mean(values: Sequence[float]) -> float | None:
    """Rounded to six digits; None of no value."""
    return round(sum(values) / len(values), 6) if values else None
