"""Grades of completions by a language model: what it is asked, and what comes of its replies.

The paper (section 4, Table 2) has GPT-4 give a short verbal evaluation first, then a grade from 0 to 10 against the
reference solution. It publishes neither the prompt nor the problems: the prompts here (prompts/judge_*.md) are ours.
Mode "paper" asks for just that; mode "rubric" says what the grades mean, and asks for answers by yes or no as well.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import string
from collections.abc import Iterable
from pathlib import Path

import pydantic

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.execution import WHOLE, program, shown_prompt
from phi_jax.evaluation.problems import Problem
from phi_jax.store.artifact import file_digest
from phi_jax.teacher.request import Endpoint, Request, Status
from phi_jax.teacher.teachers import Teachers
from phi_jax.teacher.templates import fence

PROMPTS = {"paper": "judge_paper.v1", "rubric": "judge_rubric.v1"}  # mode -> the template in use
TOP = 10  # of the grades
_BETWEEN = "===\n"  # stands between the system's and the user's message


# The evaluation stands first, so that a model argues before it decides. No docstrings: they would be part of what is
# sent.
class PaperGrade(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    evaluation: str
    grade: int = pydantic.Field(ge=0, le=TOP)


class RubricGrade(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    evaluation: str
    follows_signature: bool
    handles_edge_cases: bool
    would_pass: bool
    grade: int = pydantic.Field(ge=0, le=TOP)


ANSWERS = ("follows_signature", "handles_edge_cases", "would_pass")  # by yes or no, in mode "rubric"
_SCHEMAS: dict[str, type[PaperGrade] | type[RubricGrade]] = {"paper": PaperGrade, "rubric": RubricGrade}


@dataclasses.dataclass(frozen=True)
class Question:
    """One completion as the grader sees it, each text whole: a completion may go on in the middle of a line."""

    problem: str  # what the student was given
    reference: str  # the program that the reference makes of it
    solution: str  # the program that the completion makes of it

    @classmethod
    def of(cls, problem: Problem, completion: str, form: str) -> Question:
        """form: of the prompt that the completion goes behind, or WHOLE. Raises UserError for a problem without a
        reference, and for an unknown form.
        """
        if problem.reference is None:
            raise UserError(
                f"problem {problem.task_id} has no reference solution to grade against; give it one in the field "
                "canonical_solution, or turn the judge off with --config.judge.grader="
            )
        # What the sandbox runs, so that the grade and the verdict are of the same program.
        reference = program(problem, problem.prompt, problem.reference).candidate
        solution = program(problem, "" if form == WHOLE else shown_prompt(problem.prompt, form), completion).candidate
        return cls(_valid(problem.prompt), _valid(reference), _valid(solution))

    @functools.cached_property
    def mark(self) -> str:
        """What fences the texts in."""
        return fence(self.problem, self.reference, self.solution)

    def messages(self, mode: str) -> tuple[tuple[str, str], ...]:
        """(role, content). The system's message is the same for all questions of a mode: a server can cache it."""
        system, user = _template(mode)
        # In one pass: a "$fence" in a solution stays what it is.
        asked = user.substitute(
            fence=self.mark,
            **{name: text.removesuffix("\n") for name, text in dataclasses.asdict(self).items()},
        )
        return ("system", system), ("user", asked)


@dataclasses.dataclass(frozen=True)
class Grading:
    """What came of one question. The tuples hold one entry a repeat, in their order."""

    grades: tuple[int | None, ...]  # 0 to TOP; None where there is none
    outcomes: tuple[str, ...]  # a Status each
    evaluations: tuple[str | None, ...]
    answers: tuple[dict[str, bool] | None, ...]  # by ANSWERS; empty in mode "paper"

    @property
    def given(self) -> list[int]:
        return [grade for grade in self.grades if grade is not None]

    @property
    def mean(self) -> float | None:
        """0 to TOP, over the repeats that gave a grade."""
        return statistics.fmean(self.given) if self.given else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over repeats (of a sample), on the scale of 0 to TOP; None for fewer than two grades."""
        return statistics.stdev(self.given) if len(self.given) > 1 else None


@dataclasses.dataclass(frozen=True)
class Grader:
    """The model that config.judge.grader names."""

    faculty: Teachers
    endpoint: Endpoint
    rules: Config  # the section `judge`

    @classmethod
    def of(cls, faculty: Teachers, rules: Config) -> Grader:
        """Raises UserError for a grader that is not there, for more than one, and for a field out of its range."""
        if rules.mode not in PROMPTS:
            raise UserError(f"config.judge.mode={rules.mode!r}: unknown; use {' or '.join(PROMPTS)}")
        for field in ("repeats", "max_tokens"):
            if getattr(rules, field) < 1:
                raise UserError(f"config.judge.{field}={getattr(rules, field)}: must be at least 1")
        if not 0 <= rules.temperature <= 2:
            raise UserError(f"config.judge.temperature={rules.temperature}: must lie between 0 and 2")
        try:
            endpoints = faculty.shares(rules.grader).endpoints
        except UserError as error:
            raise UserError(f"config.judge.grader={rules.grader!r}: {error}; or use '' for no judge") from None
        if len(endpoints) > 1:
            raise UserError(f"config.judge.grader={rules.grader!r}: names several; a score has one judge, so name one")
        return cls(faculty, endpoints[0], rules)

    def prompt_note(self) -> dict[str, str]:
        """Version of the template in use, and its SHA-256 (hex)."""
        return {"version": PROMPTS[self.rules.mode], "sha256": file_digest(_path(self.rules.mode))}

    def requests(self, questions: Iterable[Question]) -> list[Request]:
        """The repeats of all questions, each request once, in the order of their keys.

        So the gold set's questions stand anywhere among the others, and nothing that is sent tells them apart.
        """
        keyed = {r.key: r for question in questions for r in self._repeats(question)}
        return [keyed[key] for key in sorted(keyed)]

    def grading(self, question: Question) -> Grading:
        """From the replies in the journal. Raises KeyError where one was not asked for."""
        replies = [self.faculty.reply(request.key) for request in self._repeats(question)]
        schema = _SCHEMAS[self.rules.mode]
        asked = [name for name in ANSWERS if name in schema.model_fields]
        read = [schema.model_validate_json(r.text) if r.status is Status.ANSWERED else None for r in replies]
        return Grading(
            grades=tuple(None if r is None else r.grade for r in read),
            outcomes=tuple(reply.status.value for reply in replies),
            evaluations=tuple(None if r is None else r.evaluation for r in read),
            answers=tuple(None if r is None else {name: getattr(r, name) for name in asked} for r in read),
        )

    def _repeats(self, question: Question) -> list[Request]:
        asked = question.messages(self.rules.mode)
        return [
            Request(
                model=self.endpoint.model,
                messages=asked,
                max_tokens=self.rules.max_tokens,
                temperature=self.rules.temperature,
                seed=repeat,
                schema=_SCHEMAS[self.rules.mode],
                label=f"judge/{question.mark}/{repeat}",
            )
            for repeat in range(self.rules.repeats)
        ]


def _valid(text: str) -> str:
    """With "?" for halves of surrogate pairs, which a file of completions can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _path(mode: str) -> Path:
    return Path(__file__).with_name("prompts") / f"{PROMPTS[mode]}.md"


@functools.cache
def _template(mode: str) -> tuple[str, string.Template]:
    system, user = _path(mode).read_text(encoding="utf-8").split(_BETWEEN)
    return system.strip(), string.Template(user.strip())
