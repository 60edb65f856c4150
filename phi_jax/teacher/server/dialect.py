"""How a request is written for one server, and how JSON is read from its reply.

In json_mode "schema", response_format holds the schema, and the server enforces it. In "object", response_format wants
any JSON object, and the schema stands in the prompt. In "text", it stands in the prompt alone. Whatever a server
promises, each reply is held against the schema here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

from phi_jax.teacher.prices import Endpoint
from phi_jax.teacher.request import Messages, Request, first_problem

if TYPE_CHECKING:
    from pydantic import BaseModel

# What a server may refuse -> what is done from then on.
INSTEAD = {
    "max_completion_tokens": "max_tokens goes by the name max_completion_tokens from here on",
    "temperature": "requests go without temperature from here on",
    "seed": "requests go without seed from here on",
    "response_format": "JSON is asked for in the prompt alone from here on, as with json_mode=text",
    "usage": "each reply is booked at its full reservation from here on",
}
_STARTS = 50  # places in a reply at which an object is looked for


def body_of(endpoint: Endpoint, request: Request, correction: Messages = (), refused: Set[str] = frozenset()) -> dict:
    """The body of POST /chat/completions. correction: messages behind the request's own; refused: keys of INSTEAD."""
    messages = [{"role": role, "content": content} for role, content in request.messages + correction]
    limit = "max_completion_tokens" if "max_completion_tokens" in refused else "max_tokens"
    body: dict[str, Any] = {"model": request.model, "messages": messages, limit: request.max_tokens}
    for name in {"temperature", "seed"} - refused:
        body[name] = getattr(request, name)
    if request.schema is None:
        return body
    mode = "text" if "response_format" in refused else endpoint.json_mode
    schema = request.schema.model_json_schema()
    if mode == "schema":
        wanted = {"name": request.schema.__name__, "strict": True, "schema": schema}
        return {**body, "response_format": {"type": "json_schema", "json_schema": wanted}}
    wish = f"Answer with one JSON object that fits this JSON Schema, and with nothing else:\n{json.dumps(schema)}"
    messages[len(request.messages) - 1]["content"] += f"\n\n{wish}"
    return body if mode == "text" else {**body, "response_format": {"type": "json_object"}}


def refused_parameter(refusal: str) -> str:
    """The key of INSTEAD that a server's message names in quotes; "" where it names none."""
    return next((name for name in INSTEAD if re.search(rf"['\"`]{name}\b", refusal)), "")


def correction(text: str, why: str) -> Messages:
    """The messages behind the request's own that ask once more and show what was wrong with the reply `text`."""
    again = f"This does not fit: {why}. Answer again, with nothing but one JSON object that fits the schema."
    return (("assistant", text[:4000]), ("user", again))


def fit(text: str, schema: type[BaseModel]) -> str:
    """The first JSON object in the reply that `schema` accepts, behind fences, prose and reasoning.

    Raises ValueError, with one line that may be shown to the model.
    """
    from pydantic import ValidationError

    first = ""
    for found in _objects(text.rpartition("</think>")[2]):
        try:
            return schema.model_validate(found).model_dump_json()
        except ValidationError as error:
            first = first or first_problem(error)
        except ValueError:  # a string with half a surrogate pair cannot be written as UTF-8
            first = first or "it holds characters that are no text"
    raise ValueError(first or "there is no JSON object in it")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, place = json.JSONDecoder(strict=False), 0
    for _ in range(_STARTS):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield found
