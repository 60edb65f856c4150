"""JSON replies: what servers are told of a schema, and what is read from the reply.

In json_mode "schema", response_format holds the schema, and the server enforces it. In "object", response_format wants
any JSON object, and the schema stands in the prompt. In "text", it stands in the prompt alone. Whatever a server
promises, each reply is held against the schema here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phi_jax.teacher.request import Messages

if TYPE_CHECKING:
    from pydantic import BaseModel

_STARTS = 50  # places in a reply at which an object is looked for
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)


def response_format(schema: type[BaseModel], mode: str) -> dict[str, Any]:
    """The request's field of that name, for a mode other than "text"."""
    if mode == "object":
        return {"type": "json_object"}
    wanted = {"name": schema.__name__, "strict": True, "schema": schema.model_json_schema()}
    return {"type": "json_schema", "json_schema": wanted}


def wish(schema: type[BaseModel]) -> str:
    """What the prompt says of the schema."""
    return (
        "Answer with one JSON object that fits this JSON Schema, and with nothing else:\n"
        f"{json.dumps(schema.model_json_schema())}"
    )


def correction(text: str, why: str) -> Messages:
    """The messages behind the request's own that ask once more and show what was wrong with the reply `text`."""
    again = f"This does not fit: {why}. Answer again, with nothing but one JSON object that fits the schema."
    return (("assistant", text[:4000]), ("user", again))


def fit(text: str, schema: type[BaseModel]) -> str:
    """The reply as JSON that `schema` accepts.

    Fences, prose around the object, trailing commas and raw line breaks in strings are mended. Raises ValueError,
    with one line that may be shown to the model.
    """
    from pydantic import ValidationError

    first = ""
    for found in _objects(text):
        try:
            return schema.model_validate(found).model_dump_json()
        except ValidationError as error:
            first = first or _told(error)
        except ValueError:  # a string with half a surrogate pair cannot be written as UTF-8
            first = first or "it holds characters that are no text"
    raise ValueError(first or "there is no JSON object in it")


def _told(error: Any) -> str:
    """The first complaint of a ValidationError, without the value, which may be long."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    told = f"{'.'.join(map(str, first['loc'])) or 'object'}: {first['msg']}"
    return " ".join(told.encode(errors="replace").decode().split())[:300]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a reply: each that stands in it, behind its reasoning first, as it is and then mended."""
    decoder = json.JSONDecoder(strict=False)
    said = text.rpartition("</think>")[2]
    for version in (said, _TRAILING_COMMA.sub(r"\1", said)):
        place = version.find("{")
        for _ in range(_STARTS):
            if place < 0:
                break
            try:
                found, end = decoder.raw_decode(version, place)
            except (ValueError, RecursionError):
                end = place + 1
            else:
                yield found
            place = version.find("{", end)
