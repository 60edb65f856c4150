"""What an HTTP error of a server means: for this request, for a while, or for all requests."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Mapping
from typing import Any

from phi_jax.errors import UserError
from phi_jax.teacher.completion import one_line
from phi_jax.teacher.request import Endpoint, Reply

_DOUBTS = 48  # attempts of requests given up one after the other, after which it is not the requests but the server
_KEY = re.compile(r"\b(?:sk|pk|gsk|key)-[\w*.-]{4,}|(?i:bearer)\s+[^\s\"',}]+")
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_credits", "account_deactivated")
_AGAIN = (408, 409, 425)


class Kind(enum.Enum):
    """Of a failed attempt."""

    LIMITED = enum.auto()  # turned away by a rate limit: does not count
    RENAMED = enum.auto()  # asked under a name that this server does not know, corrected since: does not count
    UNREACHED = enum.auto()  # nothing was sent
    FAILED = enum.auto()  # the server's own error, or no whole answer
    UNFIT = enum.auto()  # replies that were paid for and do not fit the schema
    REFUSED = enum.auto()  # this request cannot be answered, however often it is asked


@dataclasses.dataclass(frozen=True)
class Failure:
    kind: Kind
    reason: str  # one line without secrets
    wait: float | None = None  # seconds that the server asks for


def without_key(text: str, key: str) -> str:
    """The text with the API key, and whatever else looks like one, blotted out."""
    if key:
        text = text.replace(key, "[key]")
    return _KEY.sub("[key]", text)


def read_failure(endpoint: Endpoint, status: int, body: bytes, key: str) -> Failure:
    """Of an HTTP error. Raises UserError for one that each request would meet: key, quota, model, address."""
    code, message = _error(body)
    said = one_line(without_key(message, key))
    where = f"teacher {endpoint.name} ({endpoint.base_url})"
    reason = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    if status in (401, 403):
        raise UserError(f"{where}: the server does not accept the API key ({reason}); {_remedy(endpoint)}")
    if status == 402 or code in _NO_MONEY:
        raise UserError(f"{where}: the account has no credit or quota left ({reason}); put that right and start again")
    if code == "model_not_found" or (status == 404 and "model" in message.lower()):
        raise UserError(
            f"{where}: the server has no model {endpoint.model!r} ({reason}); set config.teachers.{endpoint.name}.model"
        )
    if status == 429:
        return Failure(Kind.LIMITED, reason)
    if status in _AGAIN or status >= 500:
        return Failure(Kind.FAILED, reason)
    return Failure(Kind.REFUSED, reason)


def _remedy(endpoint: Endpoint) -> str:
    if endpoint.key_variable:
        return f"check the environment variable {endpoint.key_variable}"
    return f"name the environment variable that holds it in config.teachers.{endpoint.name}.key_variable"


def _error(body: bytes) -> tuple[str, str]:
    """(code, message) of an error body: {"error": {...}} as OpenAI's, {"message"} or {"detail"} as others', or text."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return "", body[:2000].decode(errors="replace")
    if isinstance(found, Mapping) and "error" in found:
        found = found["error"]
    if not isinstance(found, Mapping):
        return "", found if isinstance(found, str) else json.dumps(found)[:2000]
    codes = [code for code in (found.get("code"), found.get("type")) if isinstance(code, str)]
    known = next((code for code in codes if code in (*_NO_MONEY, "model_not_found")), "")
    message = next((found[name] for name in ("message", "detail") if isinstance(found.get(name), str)), None)
    return known, message if message is not None else json.dumps(found)[:2000]


class Doubts:
    """Requests that were given up, held back until another is answered: so that they are the ones to blame.

    Where none is, it is the server, and they are not poisoned.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._held: list[tuple[Reply, Failure]] = []
        self._answered = False

    def clear(self) -> list[Reply]:
        """A request was answered. Returns the replies that are to be recorded as poisoned."""
        self._answered = True
        return self._release()

    def add(self, reply: Reply, failure: Failure) -> None:
        """A request was given up. Raises UserError where it is one too many."""
        self._held.append((reply, failure))
        if len(self._held) * self._endpoint.attempts >= _DOUBTS:
            raise self.down(failure)

    def end(self) -> list[Reply]:
        """No request is left. Returns what is to be recorded. Raises UserError where the server is to blame."""
        for _, failure in self._held:
            if failure.kind is Kind.UNREACHED or (failure.kind is Kind.FAILED and not self._answered):
                raise self.down(failure)
        return self._release()

    def _release(self) -> list[Reply]:
        replies, self._held = [reply for reply, _ in self._held], []
        return replies

    def down(self, failure: Failure) -> UserError:
        """Says that it is the server: what each request meets."""
        name = self._endpoint.name
        where = f"teacher {name} ({self._endpoint.base_url})"
        if failure.kind is Kind.UNREACHED:
            return UserError(
                f"{where}: cannot be reached ({failure.reason}); check config.teachers.{name}.base_url and that the "
                "server runs, then start again"
            )
        return UserError(
            f"{where}: the server answers no request, the last of {len(self._held)} given up with: {failure.reason}; "
            "what was answered is kept, so start again once the server works"
        )
