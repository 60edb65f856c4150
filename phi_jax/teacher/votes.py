"""Votes of language models: one question asked several times, each answer an object of one schema."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from phi_jax.teacher.request import Request, Status
from phi_jax.teacher.teachers import Shares, Teachers

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclasses.dataclass(frozen=True)
class Question:
    """identifier: decides which teacher gets which vote, e.g. a document's id; messages: (role, content)."""

    identifier: str
    messages: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Vote:
    """teacher: its section in config.teachers. outcome: a Status. answer: None unless that is "answered"."""

    teacher: str
    outcome: str
    answer: BaseModel | None


@dataclasses.dataclass(frozen=True)
class Voters:
    """Asks `votes` times the question of each item; label: begins the requests' labels, e.g. "grades"."""

    teachers: Teachers
    shares: Shares
    schema: type[BaseModel]
    label: str
    votes: int
    max_tokens: int
    temperature: float

    def requests(self, questions: Iterable[Question]) -> Iterator[Request]:
        """All votes on each question. What is asked about one does not depend on the others."""
        for question in questions:
            yield from (request for _, request in self._asked(question))

    def votes_on(self, question: Question) -> list[Vote]:
        """From the replies in the journal. Raises KeyError where a vote was not asked for."""
        votes = []
        for name, request in self._asked(question):
            reply = self.teachers.reply(request.key)
            answered = reply.status is Status.ANSWERED
            answer = self.schema.model_validate_json(reply.text) if answered else None
            votes.append(Vote(name, reply.status.value, answer))
        return votes

    def _asked(self, question: Question) -> Iterator[tuple[str, Request]]:
        # By the identifier, so that a larger sample or further votes repeat no request that was made before.
        first = int(hashlib.sha256(f"votes {question.identifier}".encode()).hexdigest()[:16], 16)
        for vote in range(self.votes):
            endpoint = self.shares.endpoint(first + vote)
            yield (
                endpoint.name,
                Request(
                    model=endpoint.model,
                    messages=question.messages,
                    max_tokens=self.max_tokens,
                    temperature=self.temperature,
                    seed=vote,
                    schema=self.schema,
                    label=f"{self.label}/{question.identifier}/{vote}",
                ),
            )
