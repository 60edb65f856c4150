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

from phi_jax.errors import UserError
from phi_jax.synthesis import curriculum
from phi_jax.synthesis.curriculum import KINDS, Lesson, lessons

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**63)


def constraints(lesson):
    """What a lesson asks for: all but its number."""
    return dataclasses.astuple(dataclasses.replace(lesson, number=0))


def tiny(topics):
    """A curriculum that is small enough to walk to its end."""
    plan = curriculum.load()
    return dataclasses.replace(
        plan,
        topics=plan.topics[:topics],
        audiences=plan.audiences[:3],
        formats={kind: plan.formats[kind][:4] for kind in KINDS},
        verbs=plan.verbs[:5],
        nouns=plan.nouns[:7],
        takes=plan.takes[:3],
    )


def test_what_the_file_holds():
    plan = curriculum.load()
    areas = Counter(area for area, _ in plan.topics)
    assert len(areas) == 40
    assert set(areas.values()) == {10}
    assert len({topic for _, topic in plan.topics}) == 400
    assert len(plan.audiences) >= 20
    assert all(len(plan.formats[kind]) >= 10 for kind in KINDS)
    assert len({verb for verb, _ in plan.verbs}) >= 150
    assert len(plan.nouns) >= 300


def test_types_are_python_annotations():
    plan = curriculum.load()
    for types in (*plan.takes, *(gives for _, gives in plan.verbs)):
        arguments = [part for part in types.replace("*values: ", "").split(", ") if part]
        assert arguments
        compile(f"_: ({types.replace('*values: ', '')},)", "takes", "exec")


@settings(max_examples=25, deadline=None)
@given(kinds, seeds, st.integers(0, 3000), st.integers(0, 3000))
def test_a_lesson_is_a_function_of_kind_seed_and_number(kind, seed, count, more):
    first = list(lessons(kind, count, seed))
    assert first == list(itertools.islice(lessons(kind, count + more, seed), count))
    assert [lesson.number for lesson in first] == list(range(count))


@settings(max_examples=25, deadline=None)
@given(kinds, seeds, st.integers(0, 6))
def test_every_topic_equally_often_and_no_lesson_twice(kind, seed, rounds):
    made = list(lessons(kind, 400 * rounds + 137, seed))
    for start in range(0, 400 * rounds, 400):
        assert len({lesson.topic for lesson in made[start : start + 400]}) == 400
    assert len({constraints(lesson) for lesson in made}) == len(made)


@settings(max_examples=50, deadline=None)
@given(kinds, seeds)
def test_fields_are_those_of_the_kind(kind, seed):
    plan = curriculum.load()
    verbs = set(plan.verbs)
    for lesson in lessons(kind, 20, seed):
        assert (lesson.area, lesson.topic) in plan.topics
        assert lesson.format in dict(plan.formats[kind])
        if kind == "textbooks":
            assert lesson.audience in plan.audiences
            assert lesson.setting in plan.nouns
            assert lesson.name == lesson.takes == lesson.gives == ""
        else:
            verb, noun = lesson.name.rsplit("_", 1)
            assert lesson.name.isidentifier()
            assert not keyword.iskeyword(lesson.name)
            assert (verb, lesson.gives) in verbs
            assert noun in plan.nouns
            assert lesson.takes in plan.takes
            assert lesson.audience == lesson.setting == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_of_a_topic_is_reached_before_one_returns(kind):
    """The walk is a permutation of all choices: shown on a curriculum that is small enough to walk to its end."""
    small = tiny(topics=2)
    count = len(small.topics) * small.choices(kind)
    made = list(small.lessons(kind, count, seed=3))
    assert len({constraints(lesson) for lesson in made}) == count
    formats = Counter(lesson.format for lesson in made)
    assert len(set(formats.values())) == 1
    with pytest.raises(UserError, match="different lessons; ask for fewer"):
        next(small.lessons(kind, count + 1, seed=3))


def test_seeds_give_other_lessons():
    first, second = ({constraints(lesson) for lesson in lessons("exercises", 2000, seed)} for seed in (0, 1))
    assert len(first & second) < 20


def test_a_rehearsal_sees_all_formats_names_and_types_evenly():
    made = list(lessons("exercises", 8000, 0))
    formats = Counter(lesson.format for lesson in made)
    assert max(formats.values()) < 1.3 * min(formats.values())
    assert len({lesson.name for lesson in made}) > 7000
    assert {lesson.takes for lesson in made} == set(curriculum.load().takes)


def test_lessons_are_not_kept():
    """20,000 lessons take the memory of a few."""
    next(lessons("exercises", 10**6, 0))
    tracemalloc.start()
    for _ in lessons("exercises", 20_000, 0):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_million_of_each_kind_can_be_asked_for():
    for kind in KINDS:
        assert next(lessons(kind, 1_000_000, 0)).number == 0
    with pytest.raises(UserError, match="10,000,000,000,000,000 exercises: the curriculum has"):
        next(lessons("exercises", 10**16, 0))
    with pytest.raises(ValueError, match="poems"):
        next(lessons("poems", 1, 0))


def _area(data):
    return next(iter(data["areas"].values()))


MISTAKES = {
    "areas: 39 entries, 40 are needed": lambda d: d["areas"].popitem(),
    "areas: Decisions: 9 topics, not 10": lambda d: d["areas"]["Decisions"].pop(),
    "stands there twice": lambda d: d["areas"]["Decisions"].__setitem__(0, _area(d)[0]),
    "audiences: 19 entries, at least 20": lambda d: d.update(audiences=d["audiences"][:19]),
    "audiences: must be a list of words": lambda d: d["audiences"].append(7),
    "nouns: must be a list of words": lambda d: d["nouns"].append(" apples"),
    "verbs and nouns: 'Two-Words' is no part": lambda d: d["nouns"].append("Two-Words"),
    "verbs and nouns: 'two_words' is no part": lambda d: d["nouns"].append("two_words"),
    "formats: exercises: 1 entries, at least 10": lambda d: d["formats"].update(exercises={"plain": "x"}),
    "formats: textbooks: must be a list of words": lambda d: d["formats"]["textbooks"].update(tutorial=3),
    "verbs: texts: gives: 0 entries": lambda d: d["verbs"]["texts"].update(gives=[]),
    "verbs: texts: must be an object": lambda d: d["verbs"].update(texts=[]),
    "takes: must be a list of words": lambda d: d.pop("takes"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_the_file_is_named(message, tmp_path):
    data = json.loads(curriculum.FILE.read_text())
    MISTAKES[message](data)
    path = tmp_path / "curriculum.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError) as error:
        curriculum.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "curriculum.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"curriculum\.json: cannot be read as JSON"):
        curriculum.load(path)
    with pytest.raises(UserError, match=r"missing\.json: cannot be read"):
        curriculum.load(tmp_path / "missing.json")


def test_lessons_go_to_json_and_back():
    for kind in KINDS:
        for lesson in lessons(kind, 3, 0):
            assert Lesson(**json.loads(json.dumps(dataclasses.asdict(lesson)))) == lesson
