"""What a server says, read: completions, errors, the lines of a batch.

Shapes that were recorded of OpenAI, vLLM, llama.cpp and Mistral are read; a field is trusted only as far as it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from phi_jax.teacher.request import Endpoint, Messages, Request, Status, Usage
from phi_jax.teacher.server.json_mode import correction, fit

LONGEST_WAIT = 3600.0  # seconds; a server that asks for more is asked again after this
_MAX_TOKENS = 2**31  # of one reply; a greater count is not believed
_REASON_LENGTH = 300
_KEY = re.compile(r"\b(?:sk|pk|gsk|key)-[\w*.-]{4,}|(?i:bearer)\s+[^\s\"',}]+")
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_credits", "account_deactivated")
_AGAIN = (408, 409, 425)


@dataclasses.dataclass(frozen=True)
class Completion:
    """What the server says that the model said; it is paid for. POISONED: it is no answer, and may be asked again."""

    status: Status
    text: str
    reason: str  # "" where answered
    usage: Usage | None  # None where the server reports none, or nonsense: book the whole reservation then
    model: str  # "" where the server does not say


# Of a failed attempt. Each but the first counts as one.
Kind = Literal[
    "limited",  # turned away by a rate limit
    "unreached",  # nothing was sent
    "failed",  # the server's own error, no whole answer, or a reply that is none
    "unfit",  # a reply that does not fit its schema
    "refused",  # this request cannot be answered, however often it is asked
    "fatal",  # each request would meet it: key, quota, model
]


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why an attempt brought no reply."""

    kind: Kind
    reason: str  # one line without secrets; where fatal, with the remedy
    lost: bool = False  # it may have been charged without our knowing the sum
    wait: float | None = None  # seconds that the server asks for
    correction: Messages = ()  # messages that show what was wrong, for the next attempt


# --- Completions -------------------------------------------------------------------------------------------------


def read_completion(body: Any, key: str) -> Completion | Failure:
    """body: the reply's JSON, decoded. key: the API key, which is blotted out."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        said = f"the reply is no chat completion: {_message(body)}"
        return Failure("failed", one_line(said, key), lost=True)
    text = clean(_text(content), key)
    status, reason = _status(finish, refusal, text)
    model = clean(str(body.get("model") or ""), key)
    return Completion(status, text, one_line(reason, key), read_usage(body.get("usage")), model)


def read_usage(usage: Any) -> Usage | None:
    """Tokens of a `usage` object; None unless prompt and completion are there and all counts make sense."""
    try:
        counts = (
            usage["prompt_tokens"],
            usage["completion_tokens"],
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
        )
    except (LookupError, TypeError, AttributeError):
        return None
    if not all(type(count) is int and 0 <= count < _MAX_TOKENS for count in counts):
        return None
    found = Usage(*counts)
    return found if found.cached <= found.prompt and found.reasoning <= found.completion else None


def usable(request: Request, completion: Completion) -> str | Failure:
    """The text of the request's reply: for one with a schema, JSON that it accepts."""
    if completion.status is Status.POISONED:
        return Failure("failed", completion.reason)
    if request.schema is None or completion.status is not Status.ANSWERED:
        return completion.text
    try:
        return fit(completion.text, request.schema)
    except ValueError as error:
        reason = f"the reply does not fit the schema: {error}"
        return Failure("unfit", reason, correction=correction(completion.text, str(error)))


def _status(finish: Any, refusal: Any, text: str) -> tuple[Status, str]:
    """Only reasons that are known to be good make an answer."""
    if isinstance(refusal, str) and refusal:
        return Status.REFUSED, refusal
    if finish == "content_filter":
        return Status.FILTERED, "cut by the server's content filter"
    if finish in ("length", "model_length"):
        return Status.LENGTH, "cut at max_tokens or at the end of the context"
    if finish != "stop":
        return Status.POISONED, f"the reply ended for an unknown reason: finish_reason {finish!r}"
    return (Status.ANSWERED, "") if text.strip() else (Status.POISONED, "the reply is empty")


def _text(content: Any) -> str:
    """Of a string, or of a list of parts of which those of type text count."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


# --- Errors ------------------------------------------------------------------------------------------------------


def read_failure(endpoint: Endpoint, status: int, body: bytes, key: str, wait: float | None = None) -> Failure:
    """Of an HTTP error, which cost nothing."""
    text = body.decode(errors="replace")
    try:
        said = one_line(_message(json.loads(text)), key)
    except (ValueError, RecursionError):
        said = one_line(text, key)
    reason = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    section = f"config.teachers.{endpoint.name}"
    check_key = f"check the API key in the environment variable {endpoint.key_variable}"
    if not endpoint.key_variable:
        check_key = f"name the environment variable with the API key in {section}.key_variable"
    fatal = ""
    if status == 401:
        fatal = f"the server does not accept the API key ({reason}); {check_key}"
    elif status == 402 or any(f'"{code}"' in text for code in _NO_MONEY):
        fatal = f"the account has no credit or quota left ({reason}); put that right and start again"
    elif '"model_not_found"' in text or (status == 404 and "model" in text.lower()):
        fatal = f"the server has no model {endpoint.model!r} ({reason}); set {section}.model"
    if fatal:
        return Failure("fatal", f"teacher {endpoint.name} ({endpoint.base_url}): {fatal}")
    if status == 429:
        return Failure("limited", reason, wait=wait)
    if status in _AGAIN or status >= 500:
        return Failure("failed", reason, wait=wait)
    return Failure("refused", f"{reason}; {check_key}" if status == 403 else reason)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the reply asks to wait, by retry-after-ms or retry-after.

    None where it asks nothing that can be read; an HTTP date is not read.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            if seconds >= 0:
                return min(seconds, LONGEST_WAIT)
    return None


def clean(text: str, key: str) -> str:
    """Without the API key, and with "?" for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    text = text.encode(errors="replace").decode()
    return text.replace(key, "[key]") if key else text


def one_line(text: str, key: str) -> str:
    """For a reason: without the API key and whatever else looks like one, without line breaks, cut."""
    line = " ".join(_KEY.sub("[key]", clean(text, key)).split())
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 3] + "..."


def _message(body: Any) -> str:
    """What an error body says: {"error": {"message": ...}} as OpenAI's, {"message": ...} or another as others'."""
    found = body.get("error", body) if isinstance(body, dict) else body
    message = found.get("message") if isinstance(found, dict) else found
    return message if isinstance(message, str) else json.dumps(found)


# --- The lines of a batch ----------------------------------------------------------------------------------------


def read_line(text: bytes, endpoint: Endpoint, key: str) -> tuple[str, Completion | Failure] | None:
    """(custom_id, what became of that request); None where it cannot be told which request it is about.

    text: a line of a batch's output or error file. key: the API key, which is blotted out.
    """
    try:
        record = json.loads(text)
        name, response = clean(str(record["custom_id"]), key), record.get("response")
        status, body = (int(response["status_code"]), response["body"]) if response else (0, None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    if not response:  # the batch ended before the request's turn
        return name, Failure("limited", one_line(json.dumps(record.get("error")), key))
    if status >= 300:
        return name, read_failure(endpoint, status, json.dumps(body).encode(), key)
    return name, read_completion(body, key)
