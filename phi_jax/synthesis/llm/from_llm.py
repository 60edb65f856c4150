"""Stage `synthesize` with language models as teachers: lessons of the curriculum are asked for, and what is written is
checked. See review.py for the checks, teacher/teachers.py for who is asked and what is paid.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from etils import epath

from phi_jax.config import Config
from phi_jax.store.artifact import Artifact, Draft
from phi_jax.synthesis.llm import curriculum, prompts
from phi_jax.synthesis.llm.curriculum import KINDS, Lesson, lessons
from phi_jax.synthesis.llm.prompts import Exercise
from phi_jax.synthesis.outputs import Fault, declare
from phi_jax.synthesis.review import Reviewer, Submission, check, clear
from phi_jax.teacher.pilot import Sample
from phi_jax.teacher.request import Reply, Request, Status
from phi_jax.teacher.teachers import Shares, Teachers

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
    teacher: str  # its section's name
    number: int  # 0 or 1


def synthesize(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, code, reason, text).

    Lessons are asked for first. Then the replies are checked in the lessons' order, and a lesson whose reply fails is
    asked for once more. So what is written is a function of the replies in the journal. Raises as Teachers.ask, and
    UserError where the curriculum has fewer lessons.
    """
    rules = getattr(config.texts, draft.name)
    counts = _counts(rules)
    with Teachers.of(config, draft.workdir) as teachers:
        reviewers = {kind: Reviewer(draft, kind, rules) for kind in KINDS}
        shares = teachers.shares(rules.writer)

        def batch(what: str, tries: Callable[[str], Iterator[_Try]], totals: Mapping[str, int]) -> None:
            """Asks, then checks."""
            teachers.ask(functools.partial(_requests, tries), f"{draft.label} {what}", sum(totals.values()))
            for kind, reviewer in reviewers.items():
                reviewer.review(
                    tries(kind), totals[kind], lambda t: _submission(t, teachers.reply(t.request.key), rules.license)
                )

        def first(kind: str) -> Iterator[_Try]:
            return (_try(lesson, 0, rules, shares) for lesson in lessons(kind, counts[kind], rules.seed))

        def second(kind: str) -> Iterator[_Try]:
            for row in reviewers[kind].failed(0):
                if row["code"] not in _NOT_ASKED_AGAIN:
                    yield _try(Lesson(**json.loads(row["lesson"])), 1, rules, shares)

        batch("asking", first, counts)
        again = {kind: sum(1 for _ in second(kind)) for kind in KINDS}
        batch("asking, second tries", second, again)
        for reviewer in reviewers.values():
            reviewer.publish()
        note = teachers.note()
    declare(
        draft,
        written_by=rules.writer,
        **note,
        prompts={kind: prompts.template(kind).note() for kind in KINDS},
        curriculum=curriculum.load().digest,
        **{kind: {"requested": counts[kind], "second_tries": again[kind]} for kind in KINDS},
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
    requests = min(requests, total)
    textbooks = round(requests * counts["textbooks"] / total)
    first = {"textbooks": textbooks, "exercises": requests - textbooks}
    costs: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    asked, seconds = 0, 0.0
    with Teachers.of(config, workdir, live=True) as teachers:
        shares = teachers.shares(rules.writer)
        tries = {
            kind: [_try(lesson, 0, rules, shares) for lesson in lessons(kind, first[kind], rules.seed)]
            for kind in KINDS
        }
        for number, label in enumerate(("pilot", "pilot, second tries")):
            size = sum(map(len, tries.values()))
            tally = teachers.ask(functools.partial(_requests, tries.__getitem__), label, size)
            asked += 0 if number else size - tally.found
            seconds += tally.seconds
            again: dict[str, list[_Try]] = {kind: [] for kind in KINDS}
            for kind, tried in tries.items():
                replies = [teachers.reply(t.request.key) for t in tried]
                texts = [_submission(t, reply, rules.license) for t, reply in zip(tried, replies, strict=True)]
                rows = check(kind, texts, label, rules)
                for t, reply, row in zip(tried, replies, rows, strict=True):
                    costs[t.request.label] += teachers.planned_cost(t.request, reply)
                    if number or row["code"] in _NOT_ASKED_AGAIN:
                        rejected.update(filter(None, [row["code"]]))
                    elif row["code"]:
                        again[kind].append(_try(t.lesson, 1, rules, shares))
            tries = again
    batch = any(endpoint.mode == "batch" for endpoint in shares.endpoints)
    return Sample(total, list(costs.values()), rejected, asked, seconds, batch)


def _counts(rules: Config) -> dict[str, int]:
    """Lessons of each kind that are asked for."""
    asked = {"textbooks": rules.textbook_requests, "exercises": rules.exercise_requests}
    return {kind: max(1, round(count * rules.share)) if count else 0 for kind, count in asked.items()}


def _try(lesson: Lesson, number: int, rules: Config, shares: Shares) -> _Try:
    teacher = shares.endpoint(lesson.number)
    request = Request(
        model=teacher.model,
        messages=prompts.messages(lesson),
        max_tokens=rules.max_tokens,
        temperature=rules.temperature,
        seed=number,
        schema=prompts.SCHEMAS[lesson.kind],
        label=f"{lesson.kind}/{lesson.number}",
    )
    return _Try(lesson, request, teacher.name, number)


def _requests(tries: Callable[[str], Iterable[_Try]]) -> Iterator[Request]:
    return (t.request for kind in KINDS for t in tries(kind))


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
        source=tried.teacher,
        license=license,
        tests=tests,
        name=tried.lesson.name or None,
        lesson=json.dumps(dataclasses.asdict(tried.lesson)),
        teacher=reply.model,
        fault=fault,
    )
