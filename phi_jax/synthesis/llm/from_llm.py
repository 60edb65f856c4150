"""Stage `synthesize` with language models as teachers: lessons of the curriculum are asked for, and what is written is
checked. See review.py for the checks, teacher/teachers.py for who is asked and what is paid.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from phi_jax.config import Config
from phi_jax.store.artifact import Artifact, Draft, open_draft
from phi_jax.synthesis.llm import curriculum, prompts
from phi_jax.synthesis.llm.curriculum import KINDS, Lesson, lessons
from phi_jax.synthesis.llm.prompts import Exercise
from phi_jax.synthesis.outputs import Fault, declare
from phi_jax.synthesis.review import Reviewer, Submission, clear
from phi_jax.teacher.prices import Endpoint
from phi_jax.teacher.request import Request, Status
from phi_jax.teacher.teachers import Teachers

_CODES = {
    Status.POISONED: "no_answer",
    Status.REFUSED: "refused",
    Status.FILTERED: "filtered",
    Status.LENGTH: "cut_off",
}
# The first is left to --retry-poisoned; the second would end at the same length again.
_NOT_ASKED_AGAIN = ("no_answer", "cut_off")


class _Try(NamedTuple):
    """One try at a lesson."""

    lesson: Lesson
    request: Request  # its seed is the number of the try: 0 or 1
    teacher: Endpoint


class _Lessons:
    """The lessons of one text entry: asked for, checked, and those that failed asked for once more."""

    def __init__(self, draft: Draft, rules: Config, counts: Mapping[str, int], teachers: Teachers) -> None:
        """counts: lessons by kind."""
        self.reviewers = {kind: Reviewer(draft, kind, rules) for kind in KINDS}
        self.counts = [dict(counts)]  # first tries, then second ones
        self._label, self._rules, self._teachers = draft.label, rules, teachers
        self._shares = teachers.shares(rules.writer)

    def tries(self, kind: str, number: int) -> Iterator[_Try]:
        """The first tries (number 0) or the second ones (1), which are known when the first are checked."""
        if number == 0:
            chosen = lessons(kind, self.counts[0][kind], self._rules.seed)
        else:
            failed = self.reviewers[kind].failed(0)
            chosen = (Lesson(**json.loads(row["lesson"])) for row in failed if row["code"] not in _NOT_ASKED_AGAIN)
        for lesson in chosen:
            teacher = self._shares.endpoint(lesson.number)
            request = Request(
                model=teacher.model,
                messages=prompts.messages(lesson),
                max_tokens=self._rules.max_tokens,
                temperature=self._rules.temperature,
                seed=number,
                schema=prompts.SCHEMAS[lesson.kind],
                label=f"{lesson.kind}/{lesson.number}",
            )
            yield _Try(lesson, request, teacher)

    def ask(self) -> None:
        """Asks and checks, twice."""
        self._ask(0)
        self.counts.append({kind: sum(1 for _ in self.tries(kind, 1)) for kind in KINDS})
        self._ask(1)

    def _ask(self, number: int) -> None:
        def requests() -> Iterator[Request]:
            return (tried.request for kind in KINDS for tried in self.tries(kind, number))

        label = f"{self._label} asking{', second tries' if number else ''}"
        self._teachers.ask(requests, label, sum(self.counts[number].values()))
        for kind, reviewer in self.reviewers.items():
            reviewer.review(self._submission(tried) for tried in self.tries(kind, number))

    def _submission(self, tried: _Try) -> Submission:
        """What the reply to one try says."""
        reply = self._teachers.reply(tried.request.key)
        text, tests = reply.text, None
        fault = Fault(_CODES[reply.status], reply.reason) if reply.status in _CODES else None
        if tried.lesson.kind == "exercises" and fault is None:
            exercise = Exercise.model_validate_json(reply.text)
            text, tests = exercise.code, tuple(exercise.tests)
        return Submission(
            path=f"{tried.request.label}/{tried.request.seed}",
            text=text,
            source=tried.teacher.name,
            license=self._rules.license,
            tests=tests,
            name=tried.lesson.name or None,
            lesson=json.dumps(dataclasses.asdict(tried.lesson)),
            teacher=reply.model,
            fault=fault,
        )


def synthesize(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, code, reason, text).

    Lessons are asked for first. Then the replies are checked in the lessons' order, and a lesson whose reply fails is
    asked for once more. So what is written is a function of the replies in the journal. Raises as Teachers.ask, and
    UserError where the curriculum has fewer lessons.
    """
    rules = getattr(config.texts, draft.name)
    with Teachers.of(config, draft.workdir) as teachers:
        asked = _Lessons(draft, rules, _counts(rules), teachers)
        asked.ask()
        facts = {kind: reviewer.publish() for kind, reviewer in asked.reviewers.items()}
        note = teachers.note()
    requested, second_tries = asked.counts
    declare(
        draft,
        written_by=rules.writer,
        **note,
        prompts={kind: prompts.template(kind).note() for kind in KINDS},
        curriculum=curriculum.load().digest,
        **{k: {"requested": requested[k], "second_tries": second_tries[k], **facts[k]} for k in KINDS},
    )
    clear(draft)


def pilot(config: Config, inputs: Mapping[str, Artifact], workdir: epath.PathLike, requests: int) -> dict[str, Any]:
    """Asks for the first `requests` lessons, of both kinds in proportion, and checks what comes; writes nothing but the
    journal. config.texts holds one entry. Returns the arguments of teacher.pilot.lines. A lesson is one request
    there: its cost is that of both its tries.
    """
    (name,) = config.texts.to_dict()
    rules = getattr(config.texts, name)
    counts = _counts(rules)
    total = sum(counts.values())
    count = min(requests, total)
    textbooks = round(count * counts["textbooks"] / total)
    with tempfile.TemporaryDirectory() as scratch, Teachers.of(config, workdir, live=True) as teachers:
        draft = open_draft(scratch, "pilot", name, {}, {})
        pilot = _Lessons(draft, rules, {"textbooks": textbooks, "exercises": count - textbooks}, teachers)
        pilot.ask()
        costs: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        for kind, number in itertools.product(KINDS, (0, 1)):
            for _, request, _ in pilot.tries(kind, number):
                costs[request.label] += teachers.reply(request.key).cost
            codes = (row["code"] for row in pilot.reviewers[kind].failed(number))
            rejected.update(code for code in codes if number == 1 or code in _NOT_ASKED_AGAIN)
    return {
        "total": total,
        "costs": list(costs.values()),
        "rejected": rejected,
    }


def _counts(rules: Config) -> dict[str, int]:
    """Lessons of each kind that are asked for."""
    asked = {"textbooks": rules.textbook_requests, "exercises": rules.exercise_requests}
    return {kind: max(1, round(count * rules.share)) if count else 0 for kind, count in asked.items()}
