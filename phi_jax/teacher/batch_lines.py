"""The lines that a batch brings: its output file and its error file."""

from __future__ import annotations

import dataclasses
import json

from phi_jax.teacher.completion import Completion, one_line, read_completion
from phi_jax.teacher.failures import Failure, Kind, read_failure, without_key
from phi_jax.teacher.request import Endpoint


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of the request `key`: a completion, or a failure. paid: the model answered, whatever it was."""

    key: str
    paid: bool
    completion: Completion | None = None
    failure: Failure | None = None


def read_line(text: bytes, endpoint: Endpoint, key: str) -> Line | None:
    """None where it cannot be told which request it is about.

    key: the API key, which is blotted out. Raises UserError as read_failure does.
    """
    try:
        record = json.loads(text)
        name, response = record["custom_id"], record.get("response")
        body = response["body"] if response else None
        status = int(response["status_code"]) if response else 0
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(name, str):
        return None
    if not response:  # the batch ended before the request's turn
        reason = one_line(without_key(json.dumps(record.get("error")), key))
        return Line(name, paid=False, failure=Failure(Kind.LIMITED, reason))
    if status >= 300:
        return Line(name, paid=False, failure=read_failure(endpoint, status, json.dumps(body).encode(), key))
    try:
        found = read_completion(body)
    except ValueError as error:
        return Line(name, paid=True, failure=Failure(Kind.FAILED, str(error)))
    if key:
        found = dataclasses.replace(
            found,
            text=found.text.replace(key, "[key]"),
            reason=found.reason.replace(key, "[key]"),
            model=found.model.replace(key, "[key]"),
        )
    return Line(name, paid=True, completion=found)
