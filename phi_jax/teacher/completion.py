"""The chat completion as it stands in a reply's body, live and in a batch's output alike.

Shapes that were recorded of OpenAI, vLLM, llama.cpp and Mistral are read; a field is trusted only as far as it is used.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from phi_jax.teacher.request import Status, Usage

MAX_TOKENS = 2**31  # of one reply; a greater count is not believed
_REASON_LENGTH = 300


@dataclasses.dataclass(frozen=True)
class Completion:
    """What the server says that the model said. For a request with a schema, `text` is still to be read by `fit`."""

    status: Status
    text: str
    reason: str  # "" where answered
    usage: Usage | None  # None where the server reports none, or nonsense: book the whole reservation then
    model: str  # "" where the server does not say


def read_completion(body: Any) -> Completion:
    """body: the reply's JSON, decoded. Raises ValueError, with one line that says why, for anything else."""
    if not isinstance(body, dict):
        raise ValueError("the reply is no chat completion: it is no JSON object")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ValueError("the reply is no chat completion: it has no choices[0].message")
    model = body.get("model")
    usage = read_usage(body.get("usage"))
    status, reason = _status(choice.get("finish_reason"), message.get("refusal"))
    return Completion(status, _text(message.get("content")), reason, usage, model if isinstance(model, str) else "")


def read_usage(usage: Any) -> Usage | None:
    """Tokens of a `usage` object; None unless prompt and completion are there and all counts make sense."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cached = _detail(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _detail(usage.get("completion_tokens_details"), "reasoning_tokens")
    counts = (prompt, completion, cached, reasoning)
    if not all(type(count) is int and 0 <= count < MAX_TOKENS for count in counts):
        return None
    found = Usage(*counts)  # type: ignore[arg-type]
    return found if found.cached <= found.prompt and found.reasoning <= found.completion else None


def one_line(text: str) -> str:
    """For a reason: without line breaks, cut."""
    line = " ".join(text.split())
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 3] + "..."


def _status(finish: Any, refusal: Any) -> tuple[Status, str]:
    if isinstance(refusal, str) and refusal:
        return Status.REFUSED, one_line(_valid(refusal))
    if finish == "content_filter":
        return Status.FILTERED, "cut by the server's content filter"
    if finish == "length":
        return Status.LENGTH, "cut at max_tokens"
    return Status.ANSWERED, ""


def _text(content: Any) -> str:
    """Of a string, or of a list of parts of which those of type text count."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str))
    return _valid(content) if isinstance(content, str) else ""


def _valid(text: str) -> str:
    """With "?" for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _detail(details: Any, name: str) -> Any:
    count = details.get(name) if isinstance(details, dict) else None
    return 0 if count is None else count
