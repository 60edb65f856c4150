"""What a server says, read: completions, errors, the lines of a batch.

Shapes that were recorded of OpenAI, vLLM, llama.cpp and Mistral are read; a field is trusted only as far as it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import json
import math
import re
import time
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


# Of a failed attempt. Each but the first two counts as one.
Kind = Literal[
    "limited",  # turned away by a rate limit
    "changed",  # a parameter was refused that is no longer sent
    "unreached",  # nothing was sent
    "failed",  # the server's own error, or no whole answer
    "unfit",  # a reply that was paid for and is no answer
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
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        said = f": {_error(body)[1]}" if isinstance(body, dict) and body.get("error") else ""
        return Failure("failed", one_line(f"the reply is no chat completion{said}", key), lost=True)
    text = clean(_text(message.get("content")), key)
    status, reason = _status(choice.get("finish_reason"), message.get("refusal"), text)
    model = body.get("model")
    model = clean(model, key) if isinstance(model, str) else ""
    return Completion(status, text, one_line(reason, key), read_usage(body.get("usage")), model)


def read_usage(usage: Any) -> Usage | None:
    """Tokens of a `usage` object; None unless prompt and completion are there and all counts make sense."""
    if not isinstance(usage, dict):
        return None

    def detail(of: str, name: str) -> Any:
        details = usage.get(f"{of}_tokens_details")
        return (details.get(name) if isinstance(details, dict) else None) or 0

    counts = (
        usage.get("prompt_tokens"), usage.get("completion_tokens"),
        detail("prompt", "cached_tokens"), detail("completion", "reasoning_tokens"),
    )  # fmt: skip
    if not all(type(count) is int and 0 <= count < _MAX_TOKENS for count in counts):
        return None
    found = Usage(*counts)  # type: ignore[arg-type]
    return found if found.cached <= found.prompt and found.reasoning <= found.completion else None


def usable(request: Request, completion: Completion) -> str | Failure:
    """The text of the request's reply: for one with a schema, JSON that it accepts."""
    if completion.status is Status.POISONED:
        return Failure("unfit", completion.reason)
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
    code, message = _error(body)
    where = f"teacher {endpoint.name} ({endpoint.base_url})"
    said = one_line(message, key)
    reason = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    kind: Kind = "refused"
    if status == 401:
        kind, reason = "fatal", f"{where}: the server does not accept the API key ({reason}); {_remedy(endpoint)}"
    elif status == 402 or code in _NO_MONEY:
        kind = "fatal"
        reason = f"{where}: the account has no credit or quota left ({reason}); put that right and start again"
    elif code == "model_not_found" or (status == 404 and "model" in message.lower()):
        kind = "fatal"
        remedy = f"set config.teachers.{endpoint.name}.model"
        reason = f"{where}: the server has no model {endpoint.model!r} ({reason}); {remedy}"
    elif status == 403:
        reason += f"; {_remedy(endpoint)}"
    elif status == 429:
        kind = "limited"
    elif status in _AGAIN or status >= 500:
        kind = "failed"
    return Failure(kind, reason, wait=wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the reply asks to wait: retry-after-ms, or retry-after in seconds or as an HTTP date.

    None where it asks nothing that can be read.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        seconds = math.nan
        with contextlib.suppress(ValueError):
            seconds = float(text) * unit
        if name == "retry-after" and math.isnan(seconds):
            with contextlib.suppress(ValueError, OverflowError):
                seconds = max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
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


def _remedy(endpoint: Endpoint) -> str:
    if endpoint.key_variable:
        return f"check the API key in the environment variable {endpoint.key_variable}"
    return f"name the environment variable with the API key in config.teachers.{endpoint.name}.key_variable"


def _error(body: Any) -> tuple[str, str]:
    """(code, message) of an error body: {"error": {...}} as OpenAI's, {"message"} or {"detail"} as others', or text."""
    found = body
    if isinstance(body, bytes):
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return "", body[:2000].decode(errors="replace")
    if isinstance(found, dict) and "error" in found:
        found = found["error"]
    if not isinstance(found, dict):
        return "", found if isinstance(found, str) else json.dumps(found)[:2000]
    codes = [code for code in (found.get("code"), found.get("type")) if code in (*_NO_MONEY, "model_not_found")]
    message = next((found[name] for name in ("message", "detail") if isinstance(found.get(name), str)), None)
    message = json.dumps(found)[:2000] if message is None else message
    parameter = f" ('{found['param']}')" if isinstance(found.get("param"), str) else ""
    return (codes[0] if codes else ""), message + parameter


# --- The lines of a batch ----------------------------------------------------------------------------------------


def read_line(text: bytes, endpoint: Endpoint, key: str) -> tuple[str, Completion | Failure] | None:
    """(custom_id, what became of that request); None where it cannot be told which request it is about.

    text: a line of a batch's output or error file. key: the API key, which is blotted out.
    """
    try:
        record = json.loads(text)
        name, response = record["custom_id"], record.get("response")
        body = response["body"] if response else None
        status = int(response["status_code"]) if response else 0
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    if not isinstance(name, str):
        return None
    if not response:  # the batch ended before the request's turn
        return name, Failure("limited", one_line(json.dumps(record.get("error")), key))
    if status >= 300:
        return name, read_failure(endpoint, status, json.dumps(body).encode(), key)
    return name, read_completion(body, key)
