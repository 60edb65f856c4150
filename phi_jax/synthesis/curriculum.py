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
import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError
from phi_jax.store.artifact import digest_of

FILE = Path(__file__).with_name("curriculum.json")
KINDS = ("textbooks", "exercises")
AREAS, TOPICS_PER_AREA = 40, 10
_LEAST = {"audiences": 20, "nouns": 300, "takes": 20}
_LEAST_FORMATS, _LEAST_VERBS = 10, 150


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
class _Walk:
    """All choices of a topic, each once, in an order of its own. step: coprime to their number `size`."""

    step: int
    start: int
    size: int

    def choice(self, turn: int) -> int:
        return (self.step * turn + self.start) % self.size


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """The file's entries."""

    topics: tuple[tuple[str, str], ...]  # (area, topic)
    audiences: tuple[str, ...]
    formats: Mapping[str, tuple[tuple[str, str], ...]]  # kind -> (name, what the teacher is told)
    verbs: tuple[tuple[str, str], ...]  # (verb, a result type that goes with it)
    nouns: tuple[str, ...]
    takes: tuple[str, ...]
    digest: str  # of the file's content

    def choices(self, kind: str) -> int:
        """How many different lessons a topic has."""
        return math.prod(self._axes(kind))

    def lessons(self, kind: str, count: int, seed: int) -> Iterator[Lesson]:
        """See the function `lessons`."""
        self._check_count(kind, count)
        walks = self._walks(kind, seed)
        for number in range(count):
            turn, place = divmod(number, len(self.topics))
            if place == 0:
                order = self._round(kind, seed, turn)
            yield self._lesson(kind, number, order[place], walks[order[place]].choice(turn))

    def _check_count(self, kind: str, count: int) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: there are {', '.join(KINDS)}")
        most = len(self.topics) * self.choices(kind)
        if count > most:
            raise UserError(
                f"{count:,} {kind}: the curriculum has {most:,} different lessons; ask for fewer, "
                f"or add entries to {FILE.name}"
            )

    def _round(self, kind: str, seed: int, turn: int) -> list[int]:
        """Every topic's place in the file once, in the order of a round."""
        order = list(range(len(self.topics)))
        random.Random(f"{kind} {seed} round {turn}").shuffle(order)
        return order

    def _walks(self, kind: str, seed: int) -> list[_Walk]:
        """By topic, the order in which it takes its choices."""
        size = self.choices(kind)
        walks = []
        for area, topic in self.topics:
            rng = random.Random(f"{kind} {seed} {area} {topic}")
            step = rng.randrange(size)
            while math.gcd(step, size) != 1:
                step = (step + 1) % size
            walks.append(_Walk(step, rng.randrange(size), size))
        return walks

    def _axes(self, kind: str) -> tuple[int, ...]:
        """Sizes of the lists that a lesson of this kind takes one entry each of, beside its topic."""
        if kind == "textbooks":
            return len(self.formats[kind]), len(self.audiences), len(self.nouns)
        return len(self.formats[kind]), len(self.verbs), len(self.takes), len(self.nouns)

    def _lesson(self, kind: str, number: int, topic: int, choice: int) -> Lesson:
        """The lesson of a topic with the given choice, a number below `choices`."""
        digits = []
        for size in self._axes(kind):
            choice, digit = divmod(choice, size)
            digits.append(digit)
        area, title = self.topics[topic]
        form, _ = self.formats[kind][digits[0]]
        if kind == "textbooks":
            return Lesson(kind, number, area, title, self.audiences[digits[1]], form, self.nouns[digits[2]], "", "", "")
        verb, gives = self.verbs[digits[1]]
        name = f"{verb}_{self.nouns[digits[3]]}"
        return Lesson(kind, number, area, title, "", form, "", name, self.takes[digits[2]], gives)


def lessons(kind: str, count: int, seed: int) -> Iterator[Lesson]:
    """The first `count` lessons of a kind: lesson n is a function of (kind, seed, n), and no two are the same.

    Every round of all topics, in an order of its own, takes each topic once. In round r a topic takes the choice
    (a r + b) modulo their number, a and b its own, a coprime to the number: no choice comes twice, the formats come
    equally often, the others nearly so. Raises UserError where there are fewer lessons than `count`.
    """
    return load().lessons(kind, count, seed)


def topics() -> tuple[tuple[str, str], ...]:
    """Every (area, topic), in the file's order."""
    return load().topics


@functools.cache
def load(path: str | os.PathLike[str] = FILE) -> Curriculum:
    """Reads and checks a curriculum. Raises UserError naming file and entry for what is missing, doubled or too few."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore the package's own file") from None
    return _Reader(os.fspath(path), data).curriculum()


class _Reader:
    """Turns parsed JSON into a Curriculum; each method names what it reads, for its error."""

    def __init__(self, path: str, data: Any) -> None:
        self._path, self._data = path, data

    def curriculum(self) -> Curriculum:
        data = self._table("the file", self._data)
        areas = self._table("areas", data.get("areas"), exactly=AREAS)
        topics = []
        for area, entries in areas.items():
            names = self._words(f"areas: {area}", entries)
            if len(names) != TOPICS_PER_AREA:
                self._fail(f"areas: {area}", f"{len(names)} topics, not {TOPICS_PER_AREA}")
            topics += [(area, name) for name in names]
        self._once("areas", [topic for _, topic in topics])
        formats = self._table("formats", data.get("formats"), exactly=len(KINDS))
        for kind in KINDS:
            entries = self._table(f"formats: {kind}", formats.get(kind), least=_LEAST_FORMATS)
            self._words(f"formats: {kind}", list(entries.values()))
        lists = {name: self._words(name, data.get(name), least) for name, least in _LEAST.items()}
        verbs = []
        for group, entry in self._table("verbs", data.get("verbs")).items():
            fields = self._table(f"verbs: {group}", entry)
            words = self._words(f"verbs: {group}: verbs", fields.get("verbs"))
            gives = self._words(f"verbs: {group}: gives", fields.get("gives"))
            verbs += [(word, result) for word in words for result in gives]
        words = tuple(dict.fromkeys(word for word, _ in verbs))
        if len(words) < _LEAST_VERBS:
            self._fail("verbs", f"{len(words)} entries, at least {_LEAST_VERBS} are needed")
        self._once("verbs", [f"{word} -> {result}" for word, result in verbs])
        for word in (*words, *lists["nouns"]):
            # With nouns of one word a name says which verb and noun made it: no two pairs make the same name.
            pattern = r"[a-z]+" if word in lists["nouns"] else r"[a-z]+(_[a-z]+)*"
            if not re.fullmatch(pattern, word):
                self._fail("verbs and nouns", f"{word!r} is no part of a snake_case name")
        return Curriculum(
            tuple(topics), lists["audiences"], {kind: tuple(formats[kind].items()) for kind in KINDS},
            tuple(verbs), lists["nouns"], lists["takes"], digest_of(data),
        )  # fmt: skip

    def _table(self, name: str, value: Any, *, exactly: int = 0, least: int = 1) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(name, "must be an object with named entries")
        if len(value) < least or (exactly and len(value) != exactly):
            self._fail(name, f"{len(value)} entries, {exactly or f'at least {least}'} are needed")
        return value

    def _words(self, name: str, value: Any, least: int = 1) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(v, str) and v == v.strip() != "" for v in value):
            self._fail(name, "must be a list of words")
        if len(value) < least:
            self._fail(name, f"{len(value)} entries, at least {least} are needed")
        self._once(name, value)
        return tuple(value)

    def _once(self, name: str, values: list[str]) -> None:
        seen: set[str] = set()
        for value in values:
            if value in seen:
                self._fail(name, f"{value!r} stands there twice")
            seen.add(value)

    def _fail(self, name: str, what: str) -> Any:
        raise UserError(f"{self._path}: {name}: {what}; mend the entry")
