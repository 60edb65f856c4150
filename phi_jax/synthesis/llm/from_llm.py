"""Stage `synthesize` with language models as teachers: lessons of the curriculum are asked for, and what is written is
checked. See review.py for the checks, teacher/teachers.py for who is asked and what is paid.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from etils import epath

from phi_jax.config import Config
from phi_jax.store.artifact import Artifact, Draft, open_draft
from phi_jax.synthesis.llm import curriculum, prompts
from phi_jax.synthesis.llm.curriculum import KINDS, Lesson, lessons
from phi_jax.synthesis.llm.prompts import Exercise
from phi_jax.synthesis.outputs import Fault, declare
from phi_jax.synthesis.review import Reviewer, Submission, clear
from phi_jax.teacher.asking import Tally
from phi_jax.teacher.pilot import Sample
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.teachers import Teachers

_CODES = {
    Status.POISONED: "no_answer",
    Status.REFUSED: "refused",
    Status.FILTERED: "filtered",
    Status.LENGTH: "cut_off",
}
# The first is left to --retry-poisoned; the second would end at the same length again.
_NOT_ASKED_AGAIN = ("no_answer", "cut_off")


@dataclasses.dataclass(frozen=True)
class _Try:
    """One try at a lesson."""

    lesson: Lesson
    request: Request
    teacher: Endpoint
    number: int  # 0 or 1


class _Lessons:
    """The lessons of one text entry: asked for, checked, and those that failed asked for once more."""

    def __init__(self, draft: Draft, rules: Config, counts: dict[str, int], teachers: Teachers) -> None:
        """counts: lessons by kind."""
        self.reviewers = {kind: Reviewer(draft, kind, rules) for kind in KINDS}
        self.counts, self.again = counts, dict.fromkeys(KINDS, 0)
        self._label, self._rules, self._teachers = draft.label, rules, teachers
        self._shares = teachers.shares(rules.writer)

    def first(self, kind: str) -> Iterator[_Try]:
        for lesson in lessons(kind, self.counts[kind], self._rules.seed):
            yield self._try(lesson, 0)

    def second(self, kind: str) -> Iterator[_Try]:
        for row in self.reviewers[kind].failed(0):
            if row["code"] not in _NOT_ASKED_AGAIN:
                yield self._try(Lesson(**json.loads(row["lesson"])), 1)

    def ask(self) -> tuple[Tally, Tally]:
        """Asks and checks, twice; what came of the first and the second tries."""
        first = self._ask("asking", self.first, self.counts)
        self.again = {kind: sum(1 for _ in self.second(kind)) for kind in KINDS}
        return first, self._ask("asking, second tries", self.second, self.again)

    def _ask(self, what: str, tries: Callable[[str], Iterator[_Try]], totals: Mapping[str, int]) -> Tally:
        def requests() -> Iterator[Request]:
            return (t.request for kind in KINDS for t in tries(kind))

        tally = self._teachers.ask(requests, f"{self._label} {what}", sum(totals.values()))
        for kind, reviewer in self.reviewers.items():
            replies = ((t, self._teachers.reply(t.request.key)) for t in tries(kind))
            reviewer.review(_submission(t, reply, self._rules.license) for t, reply in replies)
        return tally

    def _try(self, lesson: Lesson, number: int) -> _Try:
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
        return _Try(lesson, request, teacher, number)


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
    declare(
        draft,
        written_by=rules.writer,
        **note,
        prompts={kind: prompts.template(kind).note() for kind in KINDS},
        curriculum=curriculum.load().digest,
        **{k: {"requested": asked.counts[k], "second_tries": asked.again[k], **facts[k]} for k in KINDS},
    )
    clear(draft)


def pilot(config: Config, inputs: Mapping[str, Artifact], workdir: epath.PathLike, requests: int) -> Sample:
    """Asks for the first `requests` lessons, of both kinds in proportion, and checks what comes; writes nothing but the
    journal. config.texts holds one entry. A lesson is one request in what is returned: its cost, and its share of the
    seconds, are those of both its tries.
    """
    (name,) = config.texts.to_dict()
    rules = getattr(config.texts, name)
    counts = _counts(rules)
    total = sum(counts.values())
    textbooks = round(min(requests, total) * counts["textbooks"] / total)
    chosen = {"textbooks": textbooks, "exercises": min(requests, total) - textbooks}
    with tempfile.TemporaryDirectory() as scratch, Teachers.of(config, workdir, live=True) as teachers:
        pilot = _Lessons(open_draft(scratch, "pilot", name, {}, {}), rules, chosen, teachers)
        tallies = pilot.ask()
        rejected: Counter[str] = Counter()
        for reviewer in pilot.reviewers.values():
            rejected.update(row["code"] for row in reviewer.failed(0) if row["code"] in _NOT_ASKED_AGAIN)
            rejected.update(row["code"] for row in reviewer.failed(1))
        tries = (t for kind in KINDS for t in (*pilot.first(kind), *pilot.second(kind)))
        shares = teachers.shares(rules.writer)
        return Sample.of(teachers, shares, (t.request for t in tries), tallies, total=total, rejected=rejected)


def _counts(rules: Config) -> dict[str, int]:
    """Lessons of each kind that are asked for."""
    asked = {"textbooks": rules.textbook_requests, "exercises": rules.exercise_requests}
    return {kind: max(1, round(count * rules.share)) if count else 0 for kind, count in asked.items()}


def _submission(tried: _Try, reply: Reply, license: str) -> Submission:
    """What the reply to one try says."""
    text, tests = reply.text, None
    fault = Fault(_CODES[reply.status], reply.reason) if reply.status in _CODES else None
    if tried.lesson.kind == "exercises" and fault is None:
        exercise = Exercise.model_validate_json(reply.text)
        text, tests = exercise.code, tuple(exercise.tests)
    return Submission(
        path=f"{tried.request.label}/{tried.number}",
        text=text,
        source=tried.teacher.name,
        license=license,
        tests=tests,
        name=tried.lesson.name or None,
        lesson=json.dumps(dataclasses.asdict(tried.lesson)),
        teacher=reply.model,
        fault=fault,
    )
