"""Stage `synthesize` with language models as teachers: lessons of the curriculum are asked for, and what is written is
checked. See review.py for the checks, teacher/teachers.py for who is asked and what is paid.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping

from etils import epath

from phi_jax.config import Config
from phi_jax.store.artifact import Draft, Inputs, Json
from phi_jax.store.documents import Row
from phi_jax.synthesis.llm import curriculum, prompts
from phi_jax.synthesis.llm.curriculum import Lesson, lessons
from phi_jax.synthesis.llm.prompts import Exercise
from phi_jax.synthesis.outputs import KINDS, Fault, declare, judged
from phi_jax.synthesis.review import check, requested, sift
from phi_jax.teacher.request import Request
from phi_jax.teacher.teachers import Teachers, endpoint_of


class _Lessons:
    """The lessons of one text entry and their replies."""

    def __init__(self, rules: Config, counts: Mapping[str, int], teachers: Teachers) -> None:
        """counts: lessons by kind."""
        self._rules, self._counts, self._teachers = rules, counts, teachers
        self._shares = teachers.shares(rules.writer)

    def requests(self, kind: str) -> Iterator[tuple[Lesson, Request]]:
        """The lessons of a kind, with what is asked."""
        for lesson in lessons(kind, self._counts[kind], self._rules.seed):
            request = Request(
                endpoint_of(self._shares, lesson.number).model,
                prompts.messages(lesson),
                max_tokens=self._rules.max_tokens,
                temperature=self._rules.temperature,
                schema=prompts.SCHEMAS[kind],
                label=f"{kind}/{lesson.number}",
            )
            yield lesson, request

    def ask(self, label: str) -> None:
        """Brings the replies into the journal."""
        total = sum(self._counts.values())
        self._teachers.ask(lambda: (r for kind in KINDS for _, r in self.requests(kind)), label, total)

    def texts(self, kind: str) -> Iterator[Row]:
        """What the replies say, in the lessons' order, as review.SCHEMA has it."""
        for lesson, request in self.requests(kind):
            reply = self._teachers.reply(request)
            text, tests, fault = reply.text, None, None
            if reply.status != "answered":
                fault = Fault(reply.status, reply.reason)
            elif kind == "exercises":
                exercise = Exercise.model_validate_json(reply.text)
                text, tests = exercise.code, json.dumps(exercise.tests)
            row = {
                "text": text,
                "path": request.label,
                "source": endpoint_of(self._shares, lesson.number).name,
                "license": self._rules.license,
                "lesson": json.dumps(dataclasses.asdict(lesson)),
                "teacher": reply.model,
                "tests": tests,
            }
            yield judged(row, fault)


def synthesize(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents; columns: review.SCHEMA) and "set_aside"
    (path, code, reason, text).

    Lessons are asked for first. Then the replies are checked in the lessons' order. So what is written is a function of
    the replies in the journal. Raises as Teachers.ask.
    """
    rules = getattr(config.texts, draft.name)
    counts = requested(rules)
    with Teachers(config, draft.workdir) as teachers:
        asked = _Lessons(rules, counts, teachers)
        asked.ask(f"{draft.label} asking")
        facts = {kind: {"requested": counts[kind], **sift(draft, kind, asked.texts(kind), rules)} for kind in KINDS}
        note = teachers.note()
    declare(
        draft,
        written_by=rules.writer,
        prompts={kind: prompts.template(kind).note() for kind in KINDS},
        curriculum=curriculum.load().digest,
        **note,
        **facts,
    )


def pilot(config: Config, inputs: Inputs, workdir: epath.PathLike, requests: int) -> Json:
    """Asks for the first `requests` lessons, of both kinds in proportion, and checks what comes; writes nothing but the
    journal. config.texts holds one entry. Returns the arguments of teacher.pilot.lines.
    """
    (name,) = config.texts.to_dict()
    rules = getattr(config.texts, name)
    counts = requested(rules)
    total = sum(counts.values())
    part = min(1.0, requests / total)
    with Teachers(config, workdir, live=True) as teachers:
        asked = _Lessons(rules, {kind: round(part * count) for kind, count in counts.items()}, teachers)
        asked.ask(f"pilot {name}")
        made = [request for kind in KINDS for _, request in asked.requests(kind)]
        rows = [row for kind in KINDS for row in check(kind, [*asked.texts(kind)], f"pilot {name} {kind}", rules)]
        return {
            "total": total,
            "costs": [teachers.reply(request).cost for request in made],
            "rejected": Counter(row["code"] for row in rows if row["code"]),
        }
