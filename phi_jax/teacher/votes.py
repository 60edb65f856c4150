"""Votes of language models: one question asked several times, each answer an object of one schema."""

import dataclasses
import hashlib
from typing import Any

from phi_jax.teacher.request import Messages, Request, Status
from phi_jax.teacher.teachers import Shares, Teachers, endpoint_of

# What decides which teacher gets which vote, e.g. a document's id; and the prompt.
Question = tuple[str, Messages]


def vote_requests(question: Question, shares: Shares, asked: Request, votes: int) -> list[Request]:
    """The question, asked `votes` times. What is asked about one question does not depend on the others.

    asked: a request whose schema, max_tokens and temperature are taken, and whose label begins the others', e.g.
    "grades".
    """
    identifier, messages = question
    # By the identifier, so that a larger sample or further votes repeat no request that was made before.
    first = int(hashlib.sha256(f"votes {identifier}".encode()).hexdigest()[:16], 16)
    return [
        dataclasses.replace(
            asked,
            model=endpoint_of(shares, first + vote).model,
            messages=messages,
            seed=vote,
            label=f"{asked.label}/{identifier}/{vote}",
        )
        for vote in range(votes)
    ]


def vote_of(teachers: Teachers, request: Request) -> tuple[Status, Any]:
    """(what came of a vote, its answer, an object of the schema; None unless it was answered).

    Raises KeyError where the vote was not asked for.
    """
    reply = teachers.reply(request)
    if reply.status != "answered" or request.schema is None:
        return reply.status, None
    return reply.status, request.schema.model_validate_json(reply.text)
