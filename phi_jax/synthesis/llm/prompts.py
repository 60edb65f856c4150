"""The prompts that a teacher is sent: versioned templates (prompts/*.md), filled from a lesson.

The paper publishes no prompts; these are ours. A template that changes gets a new number: its version and digest stand
in the facts of what was made with it, and tests/test_prompts.py holds the digests of the numbers given so far.
"""

import dataclasses
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from phi_jax.synthesis.llm import curriculum
from phi_jax.synthesis.llm.curriculum import Lesson
from phi_jax.teacher.templates import Template, read_template

VERSIONS = {"textbooks": "textbook.v1", "exercises": "exercise.v1"}  # kind -> the template in use


class Exercise(BaseModel):
    """An exercise and its tests."""  # the teacher is sent this line, as part of the schema

    model_config = ConfigDict(extra="forbid")
    code: str
    tests: list[str]


SCHEMAS = {"textbooks": None, "exercises": Exercise}  # the object that a reply has to be; None = free text


def template(kind: str) -> Template:
    """The template in use."""
    return read_template(Path(__file__).with_name("prompts") / f"{VERSIONS[kind]}.md")


def messages(lesson: Lesson) -> tuple[tuple[str, str], ...]:
    """(role, content) of the messages that ask for this lesson's text."""
    told = curriculum.load().formats[lesson.kind][lesson.format]
    return template(lesson.kind).messages(**{**dataclasses.asdict(lesson), "format": told})
