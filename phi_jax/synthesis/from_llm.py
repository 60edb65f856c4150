"""Stage `synthesize` with language models as teachers: lessons of the curriculum are asked for, and what is written is
checked. See review.py for the checks, teacher/faculty.py for who is asked and what is paid.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store.artifact import Artifact, Draft
from phi_jax.synthesis import curriculum, prompts
from phi_jax.synthesis.curriculum import KINDS, Lesson
from phi_jax.synthesis.prompts import Exercise
from phi_jax.synthesis.review import NO_ANSWER, Desk, Submission, clear, group, judge
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.teachers import Shares, Teachers

_PROBLEMS = {
    Status.POISONED: NO_ANSWER,
    Status.REFUSED: "refused",
    Status.FILTERED: "filtered",
    Status.LENGTH: "cut off",
}


def taught(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, reason, text).

    Lessons are asked for first. Then the replies are checked in the lessons' order, and a lesson whose reply fails is
    asked for once more. A share of the lessons, config.synthesize.steered, is kept back until then, and given to the
    topics of which least has passed. So what is written is a function of the replies in the journal. Raises UserError
    for fields without sense, and as Teachers.ask.
    """
    rules = config.synthesize
    counts = _counts(rules)
    steered = {kind: round(count * rules.steered) for kind, count in counts.items()}
    evenly = {kind: counts[kind] - steered[kind] for kind in KINDS}
    with Teachers.of(config, draft.workdir) as faculty:
        desks = {kind: Desk(draft, kind, rules) for kind in KINDS}
        course = _Course(rules, faculty.shares(rules.teacher))
        second_tries: Counter[str] = Counter()

        def turn(what: str, tries: Callable[[str], Iterator[_Asked]], totals: Mapping[str, int]) -> None:
            """Asks, then checks."""
            faculty.ask(functools.partial(_requests, tries), f"{draft.label} {what}", sum(totals.values()))
            for kind, desk in desks.items():
                desk.review(
                    tries(kind), totals[kind], lambda a: _submission(a, faculty.reply(a.request.key), rules.license)
                )

        def both_tries(what: str, lessons: Callable[[str], Iterator[Lesson]], totals: Mapping[str, int]) -> None:
            turn(what, lambda kind: (course.ask(lesson, 0) for lesson in lessons(kind)), totals)
            first = {kind: desk.turns for kind, desk in desks.items()}

            def again(kind: str) -> Iterator[_Asked]:
                for row in desks[kind].failed(first[kind]):
                    if group(row["reason"]) != NO_ANSWER:  # that one is left to --retry-poisoned
                        yield course.ask(Lesson(**json.loads(row["lesson"])), 1)

            second = {kind: sum(1 for _ in again(kind)) for kind in KINDS}
            second_tries.update(second)
            turn(f"{what}, second tries", again, second)

        both_tries("asking", lambda kind: curriculum.lessons(kind, evenly[kind], rules.seed), evenly)
        if any(steered.values()):
            kept = {kind: desk.taught() for kind, desk in desks.items()}
            both_tries(
                "asking where least is there",
                lambda kind: curriculum.steered(kind, evenly[kind], kept[kind], steered[kind], rules.seed),
                steered,
            )

        facts: dict[str, Any] = {}
        for kind, desk in desks.items():
            facts[kind] = desk.publish()
            by_turn = facts[kind].pop("kept_by_turn")
            facts[kind] |= {
                "requested": counts[kind],
                "steered": steered[kind],
                "kept_at_first": sum(by_turn[::2]),
                "second_tries": second_tries[kind],
                "kept_at_second": sum(by_turn[1::2]),
            }
        note = faculty.note()
    draft.add_output("set_aside", "set_aside", rows=sum(facts[kind]["set_aside"] for kind in KINDS))
    draft.add_facts(
        teacher=rules.teacher,
        **note,
        prompts={kind: {"version": prompts.VERSIONS[kind], "sha256": prompts.digests()[kind]} for kind in KINDS},
        curriculum=curriculum.load().digest,
        **facts,
    )
    clear(draft)


def pilot(
    config: Config, inputs: Mapping[str, Artifact], workdir: os.PathLike[str] | str, requests: int
) -> dict[str, Any]:
    """Asks for the first `requests` lessons, of both kinds in proportion, and checks what comes; writes nothing but the
    journal. What the fields returned mean: teacher/pilot.py. A lesson is one request there: its cost, and its share of
    the seconds, are those of both its tries.
    """
    rules = config.synthesize
    counts = _counts(rules)
    total = sum(counts.values())
    requests = min(requests, total)
    textbooks = round(requests * counts["textbooks"] / total)
    first = {"textbooks": textbooks, "exercises": requests - textbooks}
    with Teachers.of(config, workdir, live=True) as faculty:
        shares = faculty.shares(rules.teacher)
        course = _Course(rules, shares)
        tries = {
            kind: [course.ask(lesson, 0) for lesson in curriculum.lessons(kind, first[kind], rules.seed)]
            for kind in KINDS
        }
        costs: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        asked = 0
        seconds = 0.0
        for turn, label in enumerate(("pilot", "pilot, second tries")):
            size = sum(map(len, tries.values()))
            tally = faculty.ask(functools.partial(_requests, tries.__getitem__), label, size)
            asked += 0 if turn else size - tally.found
            seconds += tally.seconds
            again: dict[str, list[_Asked]] = {}
            for kind, tried in tries.items():
                replies = [faculty.reply(a.request.key) for a in tried]
                for a, reply in zip(tried, replies, strict=True):
                    costs[a.request.label] += faculty.planned_cost(a.request, reply)
                texts = [_submission(a, reply, rules.license) for a, reply in zip(tried, replies, strict=True)]
                again[kind] = []
                for a, row in zip(tried, judge(kind, texts, label, rules), strict=True):
                    if row["reason"] is None:
                        continue
                    reason = group(row["reason"])
                    if turn or reason == NO_ANSWER:
                        rejected[reason] += 1
                    else:
                        again[kind].append(course.ask(a.lesson, 1))
            tries = again
        return {
            "total": total,
            "costs": list(costs.values()),
            "rejected": rejected,
            "asked": asked,
            "seconds": seconds,
            "batch": any(endpoint.mode == "batch" for endpoint in shares.endpoints),
        }


@dataclasses.dataclass(frozen=True)
class _Asked:
    """One try at a lesson."""

    lesson: Lesson
    request: Request
    teacher: Endpoint
    turn: int  # 0 or 1


@dataclasses.dataclass(frozen=True)
class _Course:
    """Makes requests of lessons. rules: config.synthesize."""

    rules: Config
    shares: Shares

    def ask(self, lesson: Lesson, turn: int) -> _Asked:
        teacher = self.shares.endpoint(lesson.number)
        request = Request(
            model=teacher.model,
            messages=prompts.messages(lesson),
            max_tokens=self.rules.max_tokens,
            temperature=self.rules.temperature,
            seed=turn,
            schema=prompts.schema_of(lesson.kind),
            label=f"{lesson.kind}/{lesson.number}",
        )
        return _Asked(lesson, request, teacher, turn)


def _counts(rules: Config) -> dict[str, int]:
    """Lessons of each kind that are asked for. Raises UserError for fields without sense."""
    if not 0 < rules.share <= 1:
        raise UserError(f"config.synthesize.share={rules.share}: a part of the requests; use one in (0, 1]")
    fields = {"textbooks": "textbook_requests", "exercises": "exercise_requests"}
    counts = {}
    for kind, field in fields.items():
        if (asked := getattr(rules, field)) < 1:
            raise UserError(f"config.synthesize.{field}={asked}: use 1 or more")
        counts[kind] = max(1, round(asked * rules.share))
    if not 0 <= rules.steered <= 0.5:
        raise UserError(
            f"config.synthesize.steered={rules.steered}: a part of the requests that waits for what the others bring; "
            "use one in [0, 0.5]"
        )
    if rules.max_tokens < 1:
        raise UserError(f"config.synthesize.max_tokens={rules.max_tokens}: tokens of one reply; use 1 or more")
    if rules.temperature < 0:
        raise UserError(f"config.synthesize.temperature={rules.temperature}: use 0 or more")
    return counts


def _requests(tries: Callable[[str], Iterable[_Asked]]) -> Iterator[Request]:
    return (asked.request for kind in KINDS for asked in tries(kind))


def _submission(asked: _Asked, reply: Reply, license: str) -> Submission:
    """What the reply to one try says."""
    text, tests = reply.text, None
    problem = f"{_PROBLEMS[reply.status]}: {reply.reason}" if reply.status in _PROBLEMS else ""
    if asked.lesson.kind == "exercises" and not problem:
        exercise = Exercise.model_validate_json(reply.text)
        text, tests = exercise.code, tuple(exercise.tests)
    return Submission(
        path=f"{asked.request.label}/{asked.turn}",
        text=text,
        source=asked.teacher.name,
        license=license,
        tests=tests,
        name=asked.lesson.name or None,
        lesson=asked.lesson,
        teacher=reply.model,
        generation=asked.teacher.generation,
        problem=problem,
    )
