"""The curriculum: what a teacher is asked to write about, as data (curriculum.json), and the lessons drawn from it.

Diversity comes from constraints that are set before the teacher is paid, as in the paper (section 2.2): a textbook
section has a topic, an audience, a form and a setting; an exercise has a topic, an exact function name, preferred
types and one demand. The paper publishes neither its topics nor its names: these are ours.
"""

import dataclasses
import functools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phi_jax.store.artifact import Json, digest_of

FILE = Path(__file__).with_name("curriculum.json")


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one text is to be about. A field that its kind does not use is ""."""

    kind: str  # one of outputs.KINDS
    number: int
    area: str
    topic: str
    audience: str = ""  # textbooks
    format: str = ""  # name of an entry of Curriculum.formats[kind]
    setting: str = ""  # textbooks: what the examples are about, e.g. "tickets"
    name: str = ""  # exercises: exact name of the function
    takes: str = ""  # exercises: types of its arguments, preferred
    gives: str = ""  # exercises: type of its result, preferred


class Curriculum(NamedTuple):
    """The file's entries."""

    topics: Sequence[tuple[str, str]]  # (area, topic)
    formats: Mapping[str, Mapping[str, str]]  # kind -> name -> what the teacher is told
    lists: Mapping[str, Mapping[str, Sequence[Any]]]  # kind -> what a lesson takes one entry of each, beside its topic
    digest: str  # of the file's content


@functools.cache
def load() -> Curriculum:
    """The curriculum that ships with the package."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    verbs = [(verb, gives) for e in data["verbs"].values() for verb in e["verbs"] for gives in e["gives"]]
    formats = {kind: list(named) for kind, named in data["formats"].items()}
    lists = {
        "textbooks": {"format": formats["textbooks"], "audience": data["audiences"], "setting": data["nouns"]},
        "exercises": {"format": formats["exercises"], "verb": verbs, "takes": data["takes"], "noun": data["nouns"]},
    }
    topics = [(area, topic) for area, topics in data["areas"].items() for topic in topics]
    return Curriculum(topics, data["formats"], lists, digest_of(data))


def lessons(kind: str, count: int, seed: int) -> Iterator[Lesson]:
    """The first `count` lessons of a kind: lesson n is a function of (kind, seed, n), and no two are the same
    as long as each topic has choices left: the curriculum has many millions of lessons.

    Every round takes each topic once, in an order of its own. In round r a topic takes the choice (a r + b) modulo
    their number, a and b its own, a coprime to the number: no choice comes twice, the formats come equally often, the
    others nearly so.
    """
    topics, lists = load().topics, load().lists[kind]
    choices = math.prod(map(len, lists.values()))  # different lessons on one topic
    walks = [_walk(f"{kind} {seed} {area} {topic}", choices) for area, topic in topics]
    for number in range(count):
        turn, place = divmod(number, len(topics))
        if place == 0:
            order = list(range(len(topics)))
            random.Random(f"{kind} {seed} round {turn}").shuffle(order)
        step, start = walks[order[place]]
        yield Lesson(kind, number, *topics[order[place]], **_fields(lists, step * turn + start))


def _walk(name: str, size: int) -> tuple[int, int]:
    """(step, start) of the order in which a topic takes its choices; the step is coprime to their number."""
    rng = random.Random(name)
    step = rng.randrange(size)
    while math.gcd(step, size) != 1:
        step = (step + 1) % size
    return step, rng.randrange(size)


def _fields(lists: Mapping[str, Sequence[Any]], choice: int) -> dict[str, str]:
    """The fields of a lesson: of each list one entry, as the digits of the choice say, the first list's being last."""
    fields: Json = {}
    for name, entries in lists.items():
        choice, place = divmod(choice, len(entries))
        fields[name] = entries[place]
    if "verb" in fields:
        verb, fields["gives"] = fields.pop("verb")
        fields["name"] = f"{verb}_{fields.pop('noun')}"
    return fields
