"""How a request is written for one server, and how JSON is read from its reply.

In json_mode "schema", response_format holds the schema, and the server enforces it. In "object", response_format wants
any JSON object, and the schema stands in the prompt. In "text", it stands in the prompt alone. Whatever a server
promises, each reply is held against the schema here.
"""

import itertools
import json
import re
from collections.abc import Iterator, Set

from pydantic import BaseModel, ValidationError

from phi_jax.store.artifact import Json
from phi_jax.teacher.prices import Endpoint
from phi_jax.teacher.request import Request, first_problem

# What a server may refuse -> what is done from then on.
INSTEAD = {
    "max_completion_tokens": "max_tokens goes by the name max_completion_tokens from here on",
    "temperature": "requests go without temperature from here on",
    "seed": "requests go without seed from here on",
    "response_format": "JSON is asked for in the prompt alone from here on, as with json_mode=text",
    "system": "the system message stands before the user's from here on",
}
_STARTS = 50  # places in a reply at which an object is looked for


def body_of(endpoint: Endpoint, request: Request, refused: Set[str] = frozenset(), tries: int = 0) -> Json:
    """The body of POST /chat/completions. refused: keys of INSTEAD. tries: of the request that failed; another seed."""
    messages = [{"role": role, "content": content} for role, content in request.messages]
    if "system" in refused and messages[0]["role"] == "system" and len(messages) > 1:
        first = messages.pop(0)
        messages[0]["content"] = f"{first['content']}\n\n{messages[0]['content']}"
    limit = "max_completion_tokens" if "max_completion_tokens" in refused else "max_tokens"
    body: Json = {"model": request.model, "messages": messages, limit: request.max_tokens}
    if "temperature" not in refused:
        body["temperature"] = request.temperature
    if "seed" not in refused:
        body["seed"] = request.seed + 1000 * tries
    if request.schema is None:
        return body
    mode = "text" if "response_format" in refused else endpoint.json_mode
    schema = request.schema.model_json_schema()
    if mode == "schema":
        wanted = {"name": request.schema.__name__, "strict": True, "schema": schema}
        return {**body, "response_format": {"type": "json_schema", "json_schema": wanted}}
    wish = f"Answer with one JSON object that fits this JSON Schema, and with nothing else:\n{json.dumps(schema)}"
    messages[-1]["content"] += f"\n\n{wish}"
    return body if mode == "text" else {**body, "response_format": {"type": "json_object"}}


def refused_parameter(refusal: str) -> str:
    """The key of INSTEAD that a server's message names, in quotes or behind a colon; "" where it names none."""
    return next((name for name in INSTEAD if re.search(rf"(?:['\"`]|: ){name}\b", refusal, re.IGNORECASE)), "")


def fit(text: str, schema: type[BaseModel]) -> str:
    """The first JSON object in the reply that `schema` accepts, behind fences, prose and reasoning.

    Where there is none, commas before a closing bracket are taken out. Raises ValueError, with one line.
    """
    first = ""
    text = text.rpartition("</think>")[2]
    for found in itertools.chain(_objects(text), _objects(re.sub(r",(\s*[}\]])", r"\1", text))):
        try:
            return schema.model_validate(found).model_dump_json()
        except ValidationError as error:
            first = first or first_problem(error)
        except ValueError:  # a string with half a surrogate pair cannot be written as UTF-8
            first = first or "it holds characters that are no text"
    raise ValueError(first or "there is no JSON object in it")


def _objects(text: str) -> Iterator[Json]:
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
