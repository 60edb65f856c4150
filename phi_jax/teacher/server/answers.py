"""What a server says, read: completions, errors, the lines of a batch; and the openai client that asks it.

Its retries are off: each attempt is in the journal before it is sent.

Shapes that were recorded of OpenAI, vLLM, llama.cpp and Mistral are read; a field is trusted only as far as it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import os
import random
import re
import time
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from phi_jax.errors import UserError
from phi_jax.teacher.prices import Endpoint, option_of
from phi_jax.teacher.request import Status, Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_CONNECT_SECONDS = 20.0
LONGEST_WAIT = 3600.0  # seconds; a server that asks for more is asked again after this
_MAX_TOKENS = 10**8  # of one reply; a greater count is not believed
_REASON_LENGTH = 300
_KEY = re.compile(r"\b(?:sk|pk|gsk|key)-[\w*.-]{4,}|(?i:bearer)\s+[^\s\"',}]+")
_FATAL = re.compile('"(insufficient_quota|billing_hard_limit_reached|insufficient_credits|model_not_found)"')
_NOT_BEGUN = re.compile("batch_(expired|cancelled)")  # the batch ended before the request's turn
T = TypeVar("T")

# Of a batch.
WORKING = ("validating", "in_progress", "finalizing", "cancelling", "queued", "pending", "running")
ENDED = ("completed", "failed", "expired", "cancelled")

# The finish reasons that are known, and what each makes of a reply. No other makes an answer.
_CUT: tuple[Status, str] = ("length", "cut at max_tokens or at the end of the context")
_FINISHED: dict[str, tuple[Status, str]] = {
    "stop": ("answered", ""),
    "length": _CUT,
    "max_tokens": _CUT,
    "model_length": _CUT,
    "content_filter": ("filtered", "cut by the server's content filter"),
}

# What the server says that the model said, which is paid for: (status, text, reason, model, usage). Where the status is
# "poisoned", it does not answer, and the request may be asked again. reason: "" where answered. model: "" where the
# server does not say. usage: None where the server reports none, or nonsense: the whole reservation is booked then.
Answer = tuple[Status, str, str, str, Usage | None]

# Of a failed attempt.
Kind = Literal[
    "limited",  # turned away by a rate limit, or not begun before its batch ended
    "failed",  # the server's own error, or no whole reply
    "void",  # a reply that is empty, or ended for a reason that is not known
    "unfit",  # a reply that does not fit its schema
    "refused",  # this request cannot be answered, however often it is asked
    "fatal",  # each request would meet it: key, quota, model
]


@dataclasses.dataclass(eq=False)
class Failure(Exception):
    """Why an attempt brought no reply. It is returned where that is to be expected, and raised elsewhere."""

    kind: Kind
    reason: str  # one line without secrets; where fatal, with the remedy
    lost: bool = False  # it may have been charged without our knowing the sum
    wait: float | None = None  # seconds that the server asks for


# --- Completions -------------------------------------------------------------------------------------------------


def read_completion(body: Any, endpoint: Endpoint, key: str) -> Answer | Failure:
    """body: the reply's JSON, decoded, or its text. key: the API key, which is blotted out.

    What holds no completion may have been charged for; an error in it counts as the HTTP error of its code.
    """
    body = _decoded(body)
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        error = body.get("error") if isinstance(body, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        said = f"the reply is no chat completion: {json.dumps(error or body)}"
        if type(code) is int and 400 <= code < 600:
            failure = read_failure(endpoint, code, said.encode(), key)
            return dataclasses.replace(failure, lost=failure.kind != "limited")  # who is turned away is not charged
        return Failure("failed", one_line(said, key), lost=True)
    text = clean(_text(content), key)
    status, reason = _status(finish, refusal, text)
    if status == "poisoned" and (problem := choice.get("error") or body.get("error")):
        reason += f": {json.dumps(problem)}"
    model = clean(str(body.get("model") or ""), key)
    return status, text, one_line(reason, key), model, read_usage(body.get("usage"))


def read_usage(usage: Any) -> Usage | None:
    """Tokens of a `usage` object; None unless prompt and completion are there and all counts make sense."""
    try:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        counts = usage["prompt_tokens"], usage["completion_tokens"], cached
    except (LookupError, TypeError, AttributeError):
        return None
    sound = all(type(count) is int and 0 <= count < _MAX_TOKENS for count in counts) and cached <= counts[0]
    return counts if sound and counts[0] > 0 else None


def _status(finish: Any, refusal: Any, text: str) -> tuple[Status, str]:
    """(what came of a reply, why it is not answered)."""
    if isinstance(refusal, str) and refusal:
        return "refused", refusal
    unknown = f"the reply ended for an unknown reason: finish_reason {finish!r}"
    status, reason = _FINISHED.get(str(finish), ("poisoned", unknown))
    return ("poisoned", "the reply is empty") if status == "answered" and not text.strip() else (status, reason)


def _decoded(body: Any) -> Any:
    """The client leaves a reply as text where its content type is not JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(body) if isinstance(body, str) else body
    return body


def _text(content: Any) -> str:
    """Of a string, or of a list of parts of which those of type text count."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


# --- Errors ------------------------------------------------------------------------------------------------------


def read_failure(endpoint: Endpoint, status: int, body: bytes, key: str, wait: float | None = None) -> Failure:
    """Of an HTTP error, which cost nothing."""
    text = body.decode(errors="replace")
    reason = one_line(f"HTTP {status}: {text}", key)
    variable = endpoint.key_variable or f"the variable that {option_of(endpoint.name, 'key_variable')} names"
    check_key = f"check the API key in {variable}"
    if status in (401, 402) or _FATAL.search(text) or (status == 404 and "model" in text.lower()):
        what = f"the server turns every request away ({reason})"
        model = f"{option_of(endpoint.name, 'model')}={endpoint.model}"
        remedy = f"{check_key}, what credit or quota the account has left, and {model}"
        return Failure("fatal", f"teacher {endpoint.name} ({endpoint.base_url}): {what}; {remedy}")
    if status == 429 and "Request too large" not in text:  # OpenAI says that of what no waiting makes fit
        return Failure("limited", reason, wait=wait)
    if status in (408, 409, 425) or status >= 500:
        return Failure("failed", reason, wait=wait)
    return Failure("refused", f"{reason}; {check_key}" if status == 403 else reason)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header retry-after asks to wait, as a number or a date; None where there is none."""
    said = headers.get("retry-after", "")
    date = email.utils.parsedate_tz(said)
    with contextlib.suppress(ValueError, OverflowError):
        seconds = email.utils.mktime_tz(date) - time.time() if date else float(said)
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


# --- The lines of a batch ----------------------------------------------------------------------------------------


def read_line(text: bytes, endpoint: Endpoint, key: str) -> tuple[str, Answer | Failure]:
    """(custom_id, what became of that request); the former is "" where it cannot be told.

    text: a line of a batch's output or error file. key: the API key, which is blotted out.
    """
    try:
        record = json.loads(text)
        name, response = clean(str(record["custom_id"]), key), record.get("response")
        status, body = (int(response["status_code"]), response.get("body")) if response else (0, None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return "", Failure("failed", "the line cannot be read")
    if not response:
        said = json.dumps(record.get("error"))
        return name, Failure("limited" if _NOT_BEGUN.search(said) else "failed", one_line(said, key))
    if not 200 <= status < 300:
        return name, read_failure(endpoint, status, json.dumps(body).encode(), key)
    return name, read_completion(body, endpoint, key)


def read_batch(said: Any, key: str, *, new: bool = False) -> dict[str, Any] | Failure:
    """The batch that a server describes: it has an id and a status of WORKING or ENDED. new: whatever its status."""
    batch = _decoded(said)
    is_batch = isinstance(batch, dict) and isinstance(batch.get("id"), str) and batch["id"]
    if is_batch and (new or batch.get("status") in (*WORKING, *ENDED)):
        return batch
    return Failure("void", one_line(f"the reply is no batch: {json.dumps(batch)}", key))


# --- The client --------------------------------------------------------------------------------------------------


def api_key(endpoint: Endpoint) -> str:
    """From the environment; "" where the endpoint wants none. Raises UserError where the variable holds no key."""
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise UserError(
            f"teacher {endpoint.name} ({endpoint.base_url}): the environment variable {endpoint.key_variable} "
            "is not set, or holds characters that no API key has; put the API key there, or set "
            f"{option_of(endpoint.name, 'key_variable')}"
        )
    return key


def open_client(endpoint: Endpoint) -> AsyncOpenAI:
    """Raises UserError where the API key or the address is none."""
    import httpx2
    import openai

    key, timeout = api_key(endpoint) or "none", httpx2.Timeout(None, connect=_CONNECT_SECONDS)
    try:
        return openai.AsyncOpenAI(api_key=key, base_url=endpoint.base_url, max_retries=0, timeout=timeout)
    except (httpx2.InvalidURL, ValueError) as error:
        raise UserError(
            f"teacher {endpoint.name}: {endpoint.base_url!r} is no address ({error}); set "
            f"{option_of(endpoint.name, 'base_url')}"
        ) from None


async def call(endpoint: Endpoint, sent: Awaitable[T], seconds: float) -> T | Failure:
    """What a call of the client returns; a Failure where the server errs, is not reached or takes too long."""
    import httpx2
    import openai

    key = api_key(endpoint)
    try:
        async with asyncio.timeout(seconds):
            return await sent
    except openai.APIStatusError as error:
        response = error.response
        return read_failure(endpoint, response.status_code, response.content, key, retry_after(response.headers))
    except TimeoutError:
        return Failure("failed", f"no whole reply within {seconds:g} s", lost=True)
    except Exception as error:  # the client stumbles in many ways where a reply is not what it should be
        cause = error.__cause__ or error
        # These are raised before a connection stands, so before anything is sent.
        unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol)
        what = "the server cannot be reached" if unsent else f"there is no whole reply: {type(cause).__name__}"
        return Failure("failed", one_line(f"{what}: {cause}", key), lost=not unsent)


def pause(failure: Failure, times: int) -> float:
    """Seconds until the next attempt: what the server asks for and a little, else full jitter below 1, 2, 4 to 32."""
    jitter = random.uniform(0.0, 0.5 * 2.0 ** min(times, 6))
    return jitter if failure.wait is None else failure.wait + 0.1 * jitter
