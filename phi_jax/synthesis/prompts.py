"""The prompts that a teacher is sent: versioned templates (prompts/*.md), filled from a lesson.

The paper publishes no prompts; these are ours. A template that changes gets a new number: its version and digest stand
in the facts of what was made with it, and tests/test_prompts.py holds the digests of the numbers given so far.
"""

from __future__ import annotations

import functools
import hashlib
import string
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from phi_jax.synthesis import curriculum
from phi_jax.synthesis.curriculum import Lesson

VERSIONS = {"textbooks": "textbook.v1", "exercises": "exercise.v1"}  # kind -> the template in use
_BETWEEN = "===\n"  # stands between the system's and the user's message


class Exercise(BaseModel):
    """An exercise and its tests."""  # the teacher is sent this line, as part of the schema

    model_config = ConfigDict(extra="forbid")
    code: str
    tests: list[str]


def schema_of(kind: str) -> type[BaseModel] | None:
    """The object that a reply has to be; None where it is free text."""
    return Exercise if kind == "exercises" else None


def messages(lesson: Lesson) -> tuple[tuple[str, str], ...]:
    """(role, content) of the messages that ask for this lesson's text.

    The system's message is the same for all lessons of a kind, and comes first: a server can cache it.
    """
    system, user = _template(VERSIONS[lesson.kind])
    told = _told(lesson.kind)[lesson.format]
    return (
        ("system", system),
        (
            "user",
            user.substitute(
                topic=lesson.topic, area=lesson.area, audience=lesson.audience, format=told, setting=lesson.setting,
                name=lesson.name, takes=lesson.takes, gives=lesson.gives,
            ),
        ),
    )  # fmt: skip


def digests() -> dict[str, str]:
    """SHA-256 (hex) of each template in use, by kind."""
    return {kind: hashlib.sha256(_text(name).encode()).hexdigest() for kind, name in VERSIONS.items()}


def _text(name: str) -> str:
    return (Path(__file__).with_name("prompts") / f"{name}.md").read_text(encoding="utf-8")


@functools.cache
def _template(name: str) -> tuple[str, string.Template]:
    system, user = _text(name).split(_BETWEEN)
    return system.strip(), string.Template(user.strip())


@functools.cache
def _told(kind: str) -> Mapping[str, str]:
    return curriculum.load().formats[kind]
