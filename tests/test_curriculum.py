"""The curriculum: complete, and lessons that are a pure function of kind, seed and number, no two alike."""

import dataclasses
import itertools
import json
import keyword
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.synthesis.llm import curriculum
from phi_jax.synthesis.llm.curriculum import lessons
from phi_jax.synthesis.outputs import KINDS

AUDIENCES = curriculum.load().lists["textbooks"]["audience"]
VERBS, TAKES, NOUNS = (curriculum.load().lists["exercises"][name] for name in ("verb", "takes", "noun"))
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**63)


def constraints(lesson):
    """What a lesson asks for: all but its number."""
    return dataclasses.astuple(dataclasses.replace(lesson, number=0))


def test_what_the_file_holds():
    """40 areas of 10 topics, nothing twice, and names that are identifiers: verb and noun show in the name."""
    data = json.loads(curriculum.FILE.read_text())
    plan = curriculum.load()
    assert [len(topics) for topics in data["areas"].values()] == [10] * 40
    assert set(plan.formats) == set(KINDS)
    assert min(map(len, plan.formats.values())) >= 10
    assert min(len(AUDIENCES), len(TAKES)) >= 20
    assert len({verb for verb, _ in VERBS}) >= 150
    assert len(NOUNS) >= 300
    told = [text for formats in plan.formats.values() for text in formats.values()]
    for entries in ([t for _, t in plan.topics], AUDIENCES, NOUNS, TAKES, VERBS, told):
        assert len(set(entries)) == len(entries)
        words = [word for entry in entries for word in ([entry] if isinstance(entry, str) else entry)]
        assert all(word == word.strip() != "" for word in words)
    for word in (*(verb for verb, _ in VERBS), *NOUNS):
        assert word.isidentifier()
        assert word.islower()
    assert not any("_" in noun for noun in NOUNS)  # so that no two pairs of verb and noun make the same name


def test_types_are_python_annotations():
    for types in (*TAKES, *(gives for _, gives in VERBS)):
        compile(f"_: ({types.replace('*values: ', '')},)", "takes", "exec")


@settings(max_examples=25, deadline=None)
@given(kinds, seeds, st.integers(0, 2000), st.integers(0, 1000))
def test_a_lesson_is_a_function_of_kind_seed_and_number(kind, seed, count, more):
    """Each round has every topic once, no lesson comes twice, and fields are those of the kind."""
    first = list(lessons(kind, count, seed))
    assert first == list(itertools.islice(lessons(kind, count + more, seed), count))
    assert [lesson.number for lesson in first] == list(range(count))
    for begin in range(0, count - 399, 400):
        assert len({lesson.topic for lesson in first[begin : begin + 400]}) == 400
    assert len({constraints(lesson) for lesson in first}) == count
    plan = curriculum.load()
    for lesson in first[:20]:
        assert (lesson.area, lesson.topic) in plan.topics
        assert lesson.format in plan.formats[kind]
        if kind == "textbooks":
            assert lesson.audience in AUDIENCES
            assert lesson.setting in NOUNS
            assert lesson.name == lesson.takes == lesson.gives == ""
        else:
            verb, noun = lesson.name.rsplit("_", 1)
            assert not keyword.iskeyword(lesson.name)
            assert (verb, lesson.gives) in VERBS
            assert noun in NOUNS
            assert lesson.takes in TAKES
            assert lesson.audience == lesson.setting == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_of_a_topic_is_reached_before_one_returns(kind, monkeypatch):
    """The walk is a permutation of all choices: shown on a curriculum that is small enough to walk to its end."""
    plan = curriculum.load()
    lists = {kind: {name: entries[:4] for name, entries in plan.lists[kind].items()} for kind in KINDS}
    small = plan._replace(topics=plan.topics[:2], lists=lists)
    count = 2 * 4 ** len(lists[kind])
    monkeypatch.setattr(curriculum, "load", lambda: small)
    made = list(lessons(kind, count, 3))
    assert len({constraints(lesson) for lesson in made}) == count
    assert len(set(Counter(lesson.format for lesson in made).values())) == 1


def test_seeds_give_other_lessons():
    first, second = ({constraints(lesson) for lesson in lessons("exercises", 2000, seed)} for seed in (0, 1))
    assert len(first & second) < 20


def test_lessons_are_not_kept():
    """20,000 of a million lessons take the memory of a few."""
    for kind in KINDS:
        assert next(lessons(kind, 1_000_000, 0)).number == 0
    tracemalloc.start()
    for _ in lessons("exercises", 20_000, 0):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
