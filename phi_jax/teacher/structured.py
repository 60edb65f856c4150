"""JSON replies from any server: by its json_schema mode, else its JSON mode, else by the prompt alone.

Which of these rungs a server stands on is found out by a probe (client.py), once, and remembered in the journal.
What comes is always held against the schema here, whatever the server promises.
"""

from __future__ import annotations

import enum
import functools
import json
import re
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phi_jax.teacher.completion import one_line
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.request import Request

if TYPE_CHECKING:
    from pydantic import BaseModel

_STARTS = 50  # places in a reply at which an object is looked for
_TABLE = (
    "CREATE TABLE IF NOT EXISTS rungs (base_url TEXT, model TEXT, rung TEXT NOT NULL, PRIMARY KEY (base_url, model))"
)
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)


class Rung(enum.StrEnum):
    """How a JSON reply is asked for, best first."""

    JSON_SCHEMA = "json_schema"  # response_format holds the schema, and the server enforces it
    JSON_OBJECT = "json_object"  # response_format wants any JSON object; the schema stands in the prompt
    PROMPT = "prompt"  # the schema stands in the prompt


class Misfit(Exception):
    """A reply that does not fit its schema. The text says how, in one line that may be shown to the model."""


def request_body(request: Request, rung: Rung, *, limit_as: str = "max_tokens") -> dict[str, Any]:
    """The body of POST /chat/completions. limit_as: what the server calls the limit on completion tokens."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        limit_as: request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    if request.schema is None or rung is Rung.PROMPT:
        return body
    if rung is Rung.JSON_OBJECT:
        body["response_format"] = {"type": "json_object"}
    else:
        wanted = {"name": request.schema.__name__, "strict": True, "schema": strict_schema(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    return body


def messages_on(rung: Rung, request: Request) -> tuple[tuple[str, str], ...]:
    """The request's messages, with the schema behind the last of them where the rung needs it in the prompt."""
    if request.schema is None or rung is Rung.JSON_SCHEMA:
        return request.messages
    schema = json.dumps(strict_schema(request.schema))
    *before, (role, content) = request.messages
    wish = f"Answer with one JSON object that fits this JSON Schema, and with nothing else:\n{schema}"
    return (*before, (role, f"{content}\n\n{wish}"))


def correction(text: str, misfit: Misfit) -> tuple[tuple[str, str], ...]:
    """The messages behind the request's own that ask once more and show what was wrong."""
    wish = f"This does not fit: {misfit}. Answer again, with nothing but one JSON object that fits the schema."
    return (("assistant", text[:4000]), ("user", wish))


@functools.cache
def strict_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON Schema as strict modes want it: each object closed, each property required, no defaults."""
    strict = _strict(schema.model_json_schema())
    assert isinstance(strict, dict)
    return strict


def _strict(part: Any) -> Any:
    if isinstance(part, list):
        return [_strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    named = ("properties", "$defs")  # their keys are names, no keywords
    strict = {
        key: {name: _strict(value) for name, value in inner.items()}
        if key in named
        else inner
        if key in ("enum", "const")
        else _strict(inner)
        for key, inner in part.items()
        if key != "default"
    }
    if strict.get("type") == "object" and "properties" in strict:
        strict["additionalProperties"] = False
        strict["required"] = list(strict["properties"])
    return strict


def fit(text: str, schema: type[BaseModel]) -> str:
    """The reply as JSON that `schema` accepts.

    Fences, prose around the object, trailing commas and raw line breaks in strings are mended. Raises Misfit.
    """
    from pydantic import ValidationError

    first = ""
    for found in _objects(text):
        try:
            return schema.model_validate(found).model_dump_json()
        except ValidationError as error:
            first = first or _told(error)
        except ValueError:  # a string with half a surrogate pair is not to be written as UTF-8
            first = first or "it holds characters that are no text"
    raise Misfit(first or "there is no JSON object in it")


def fits_untouched(text: str, schema: type[BaseModel] | None) -> bool:
    """Whether the reply is a JSON object as it stands, which `schema` accepts. None: any object."""
    try:
        found = json.loads(text)
        if schema is not None:
            schema.model_validate(found)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)


def _told(error: Any) -> str:
    """The first three complaints of a ValidationError, without the values, which may be long."""
    told = [
        f"{'.'.join(map(str, e['loc'])) or 'object'}: {e['msg']}"
        for e in error.errors(include_url=False, include_context=False, include_input=False)[:3]
    ]
    return one_line("; ".join(told).encode(errors="replace").decode())


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a reply: the whole of it, else each that stands in it, behind its reasoning first."""
    decoder = json.JSONDecoder(strict=False)
    try:
        whole = decoder.decode(text.strip())
    except (ValueError, RecursionError):
        pass
    else:
        if isinstance(whole, dict):
            yield whole
            return
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


async def remembered(journal: Journal, base_url: str, model: str) -> Rung | None:
    """The rung that a probe of an earlier time found, or None."""

    def change(database: sqlite3.Connection) -> str | None:
        database.execute(_TABLE)
        row = database.execute("SELECT rung FROM rungs WHERE base_url = ? AND model = ?", (base_url, model)).fetchone()
        return row[0] if row else None

    found = await journal.write(change)
    return Rung(found) if found else None


async def remember(journal: Journal, base_url: str, model: str, rung: Rung) -> None:
    """Keeps what the probe found."""

    def change(database: sqlite3.Connection) -> None:
        database.execute(_TABLE)
        database.execute("INSERT OR REPLACE INTO rungs VALUES (?, ?, ?)", (base_url, model, str(rung)))

    await journal.write(change)
