"""The curriculum: what a teacher is asked to write about, as data (curriculum.json), and the lessons drawn from it.

Diversity comes from constraints that are set before the teacher is paid, as in the paper (section 2.2): a textbook
section has a topic, an audience, a form and a setting; an exercise has a topic, an exact function name, preferred
types and one demand. The paper publishes neither its topics nor its names: these are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.store.artifact import digest_of

FILE = Path(__file__).with_name("curriculum.json")
KINDS = ("textbooks", "exercises")


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one text is to be about. A field that its kind does not use is ""."""

    kind: str  # one of KINDS
    number: int
    area: str
    topic: str
    audience: str  # textbooks
    format: str  # name of an entry of Curriculum.formats[kind]
    setting: str  # textbooks: what the examples are about, e.g. "tickets"
    name: str  # exercises: exact name of the function
    takes: str  # exercises: types of its arguments, preferred
    gives: str  # exercises: type of its result, preferred


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """The file's entries."""

    topics: tuple[tuple[str, str], ...]  # (area, topic)
    audiences: tuple[str, ...]
    formats: Mapping[str, Mapping[str, str]]  # kind -> name -> what the teacher is told
    verbs: tuple[tuple[str, str], ...]  # (verb, a result type that goes with it)
    nouns: tuple[str, ...]
    takes: tuple[str, ...]
    digest: str  # of the file's content

    def choices(self, kind: str) -> int:
        """The number of different lessons on one topic."""
        return math.prod(map(len, self._axes(kind)))

    def lessons(self, kind: str, count: int, seed: int) -> Iterator[Lesson]:
        """See the function `lessons`."""
        choices = self.choices(kind)
        if count > len(self.topics) * choices:
            raise UserError(
                f"{count:,} {kind}: the curriculum has {len(self.topics) * choices:,} different lessons; "
                "ask for fewer, or add entries to curriculum.json"
            )
        walks = [self._walk(kind, seed, area, topic) for area, topic in self.topics]
        for number in range(count):
            turn, place = divmod(number, len(self.topics))
            if place == 0:
                order = list(range(len(self.topics)))
                random.Random(f"{kind} {seed} round {turn}").shuffle(order)
            step, start = walks[order[place]]
            yield self._lesson(kind, number, self.topics[order[place]], (step * turn + start) % choices)

    def _axes(self, kind: str) -> tuple[tuple, ...]:
        """The lists of which a lesson of this kind takes one entry each, beside its topic."""
        formats = tuple(self.formats[kind])
        return (formats, self.audiences, self.nouns) if kind == "textbooks" else (
            formats, self.verbs, self.takes, self.nouns,
        )  # fmt: skip

    def _walk(self, kind: str, seed: int, area: str, topic: str) -> tuple[int, int]:
        """(step, start) of the order in which a topic takes its choices; the step is coprime to their number."""
        rng = random.Random(f"{kind} {seed} {area} {topic}")
        size = self.choices(kind)
        step = rng.randrange(size)
        while math.gcd(step, size) != 1:
            step = (step + 1) % size
        return step, rng.randrange(size)

    def _lesson(self, kind: str, number: int, topic: tuple[str, str], choice: int) -> Lesson:
        """The lesson of a topic with the given choice, a number below `choices`."""
        entries = []
        for axis in self._axes(kind):
            choice, place = divmod(choice, len(axis))
            entries.append(axis[place])
        if kind == "textbooks":
            form, audience, setting = entries
            return Lesson(kind, number, *topic, audience, form, setting, "", "", "")
        form, (verb, gives), takes, noun = entries
        return Lesson(kind, number, *topic, "", form, "", f"{verb}_{noun}", takes, gives)


def lessons(kind: str, count: int, seed: int) -> Iterator[Lesson]:
    """The first `count` lessons of a kind: lesson n is a function of (kind, seed, n), and no two are the same.

    Every round takes each topic once, in an order of its own. In round r a topic takes the choice (a r + b) modulo
    their number, a and b its own, a coprime to the number: no choice comes twice, the formats come equally often, the
    others nearly so. Raises UserError where there are fewer lessons than `count`.
    """
    return load().lessons(kind, count, seed)


@functools.cache
def load() -> Curriculum:
    """The curriculum that ships with the package."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    return Curriculum(
        topics=tuple((area, topic) for area, topics in data["areas"].items() for topic in topics),
        audiences=tuple(data["audiences"]),
        formats=data["formats"],
        verbs=tuple((verb, gives) for e in data["verbs"].values() for verb in e["verbs"] for gives in e["gives"]),
        nouns=tuple(data["nouns"]),
        takes=tuple(data["takes"]),
        digest=digest_of(data),
    )
