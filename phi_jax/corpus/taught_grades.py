"""Grades by language models: what is asked of each file, and its grade from the votes.

The paper (section 2.1) has GPT-4 "determine its educational value for a student whose goal is to learn basic coding
concepts", and gives no more of the prompt. The rest of prompts/grade.v1.md, the scale of 0 to 10, the reason before the
grade and the votes are ours.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydantic

from phi_jax.config import Config
from phi_jax.store import documents
from phi_jax.teacher.request import Request, Status
from phi_jax.teacher.teachers import Teachers
from phi_jax.teacher.templates import fence, read_template
from phi_jax.teacher.votes import Question, vote_requests

TOP = 10  # of the votes; a file's grade is their mean divided by it
TEMPLATE = Path(__file__).with_name("prompts") / "grade.v1.md"


# The reason stands first, so that a model argues before it decides. No docstring: it would be part of what is sent.
class Grade(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    reason: str
    grade: int = pydantic.Field(ge=0, le=TOP)


def ballot(teachers: Teachers, rules: Config) -> Callable[[documents.Row], list[Request]]:
    """A function of a file: the requests for its votes, as config.annotate says. Raises as Teachers.shares."""
    shares = teachers.shares(rules.grader)
    asked = Request("", (), rules.max_tokens, rules.temperature, schema=Grade, label="grades")
    return lambda row: vote_requests(question_of(row, rules.max_file_bytes), shares, asked, rules.votes)


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
    return row["id"], template.messages(fence=fence(shown), extent=extent, file=shown.removesuffix("\n"))


def cut(text: str, max_bytes: int) -> str:
    """The text's whole lines that fit into `max_bytes` bytes of UTF-8; the start of its first line where none does."""
    data = text.encode()
    if len(data) <= max_bytes:
        return text
    beginning = data[:max_bytes].decode(errors="ignore")
    return beginning[: beginning.rfind("\n") + 1] or beginning


def graded(identifier: str, votes: Sequence[tuple[Status, Any]]) -> documents.Row:
    """The row of a file. votes: as votes.vote_of has them."""
    answers = [answer for _, answer in votes]
    given = [answer for answer in answers if answer]
    missing = ", ".join(f"{n} {outcome}" for outcome, n in sorted(Counter(outcome for outcome, _ in votes).items()))
    return {
        "id": identifier,
        "grade": round(sum(answer.grade for answer in given) / len(given) / TOP, 6) if given else None,
        "reason": None if given else f"no vote: {missing}",
        "votes": [answer.grade if answer else None for answer in answers],
        "explanation": given[0].reason if given else None,
    }
