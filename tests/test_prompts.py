"""The prompts: versioned, whole, and cheap; a version's text never changes."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from phi_jax.synthesis.llm import prompts
from phi_jax.synthesis.llm.curriculum import lessons
from phi_jax.synthesis.llm.prompts import Exercise, messages
from phi_jax.synthesis.outputs import KINDS

# SHA-256 of each template that was ever in use. A template that has been used is never changed: write the next number.
GIVEN_OUT = {
    "exercise.v1": "06d0306dd01eaff2b4a061ed0cab18a17c6b946821773e0d26c002cf49eeccdb",
    "textbook.v1": "9481de558205444bba102886a3ed052782d92a9295d1edf508e1b7bf5caeecc9",
}


def test_a_template_never_changes_without_its_number():
    for name, digest in GIVEN_OUT.items():
        path = Path(prompts.__file__).with_name("prompts") / f"{name}.md"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{name} changed: give it the next number"
    for kind, name in prompts.VERSIONS.items():
        assert prompts.template(kind).note() == {"version": name, "sha256": GIVEN_OUT[name]}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**32))
def test_a_prompt_says_what_the_lesson_says(kind, seed):
    for lesson in lessons(kind, 5, seed):
        (first, system), (second, user) = messages(lesson)
        assert (first, second) == ("system", "user")
        assert not re.search(r"\$|\{\w*\}|===", system.replace('{"code"', "") + user)
        for field in ("area", "topic", "audience", "setting", "name", "takes", "gives"):
            assert getattr(lesson, field) in user
        if kind == "exercises":
            assert f"a function named `{lesson.name}`" in user
        else:
            assert "Write a section of a textbook" in user


def test_lessons_that_differ_have_prompts_that_differ():
    for kind in KINDS:
        asked = {messages(lesson) for lesson in lessons(kind, 2000, 0)}
        assert len(asked) == 2000
        assert len({system for (_, system), _ in asked}) == 1  # what a server may cache


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_reaches_the_teacher_in_full(kind):
    lesson = next(lessons(kind, 1, 0))
    told = set()
    for name, text in prompts.curriculum.load().formats[kind].items():
        told.add(messages(dataclasses.replace(lesson, format=name))[1][1])
        assert text in messages(dataclasses.replace(lesson, format=name))[1][1]
    assert len(told) == len(prompts.curriculum.load().formats[kind])


def test_a_prompt_is_paid_for_a_million_times():
    """Characters, at about 4.5 a token."""
    for kind in KINDS:
        sizes = [sum(len(content) for _, content in messages(lesson)) for lesson in lessons(kind, 400, 0)]
        assert sum(sizes) / len(sizes) < 1500
        assert max(sizes) < 1700


def test_an_exercise_is_what_the_schema_says():
    assert {"textbooks": None, "exercises": Exercise} == prompts.SCHEMAS
    schema = Exercise.model_json_schema()
    # What OpenAI's strict mode asks of every object.
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"]) == ["code", "tests"]
    assert Exercise.model_validate_json('{"code": "x", "tests": []}') == Exercise(code="x", tests=[])
    for wrong in ({"code": "x"}, {"code": "x", "tests": "y"}, {"code": "x", "tests": [], "more": 1}):
        with pytest.raises(ValidationError):
            Exercise.model_validate_json(json.dumps(wrong))
