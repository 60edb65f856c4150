"""What goes wrong in the test server (llm_server.py), chosen by seed and attempt, and the shapes of errors and replies.

The shapes are those of api.openai.com, vLLM and llama.cpp's llama-server, as their documents and sources have them.
"""

import email.utils
import math
import random
import socket
import struct
import time

# Each with what the server has charged for it when it strikes.
FAULTS = {
    "429": 0, "429_bare": 0, "500": 0, "503": 0, "echo": 0, "reset_before": 0,  # nothing is charged
    "reset_after": 1, "hang": 1, "truncated": 1, "html": 1,  # charged, and no whole reply
    "wrong_schema": 2, "slow_drip": 2, "duplicate": 2, "refusal": 2, "content_filter": 2, "length": 2,  # a whole reply
    "no_usage": 3,  # a whole reply that does not say what it cost
}  # fmt: skip
LOST = tuple(name for name, charged in FAULTS.items() if charged in (1, 3))  # the client can not know what they cost
RETRY_FORMS = ("seconds", "date", "garbage")
UPKEEP = ("500", "503", "429", "429_bare", "reset_before", "reset_after")  # those that files and batches know too


def choose(options, *what):
    """The fault of this attempt at `what`, or ""; and the generator that settles its details."""
    rng = random.Random(" ".join(map(str, (options.seed, *what))))
    if rng.random() >= options.faults:
        return "", rng
    return rng.choice(options.kinds), rng


def error(message, kind="invalid_request_error", param=None, code=None):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def turned_away(fault, rng, options, headers):
    """(HTTP status, body, headers) of a fault that comes before any work is done."""
    if fault in ("429", "429_bare"):
        form = "none" if fault == "429_bare" else options.retry_form or rng.choice(RETRY_FORMS)
        said = "Rate limit reached for requests. Please try again later."
        return 429, error(said, "requests", code="rate_limit_exceeded"), retry_headers(form, options.retry_seconds)
    if fault == "503":
        return 503, error("The engine is currently overloaded, please try again later", "server_error"), {}
    if fault == "echo":
        return 500, error(f"upstream failed; request headers were {dict(headers)!r}", "server_error"), {}
    return 500, error("The server had an error while processing your request. Sorry about that!", "server_error"), {}


REFUSALS = {
    "key": (401, error("Incorrect API key provided.", code="invalid_api_key")),
    "permission": (403, error("Your organization must be verified to use this model.", code="permission_denied")),
    "model": (404, error("The model `x` does not exist or you do not have access to it.", code="model_not_found")),
    "quota": (429, error("You exceeded your current quota.", "insufficient_quota", None, "insufficient_quota")),
}  # fmt: skip


def retry_headers(form, seconds):
    """The header that says when to come back, or none."""
    date = email.utils.formatdate(math.ceil(time.time() + seconds), usegmt=True)
    after = {"seconds": f"{seconds:g}", "date": date, "garbage": "soon"}
    return {"retry-after": after[form]} if form in after else {}


class Limits:
    """Requests and tokens a second, each a bucket of one second's worth."""

    def __init__(self, options):
        self.rates = {"requests": options.requests_per_second, "tokens": options.tokens_per_second}
        self.left = dict(self.rates)
        self.form = options.limit_headers
        self.last = time.monotonic()

    def take(self, tokens):
        """(seconds to wait, 0 where there is room; headers)"""
        now, before = time.monotonic(), self.last
        self.last = now
        wanted = {"requests": 1, "tokens": tokens}
        waits = [0.0]
        for name, rate in self.rates.items():
            if rate:
                self.left[name] = min(rate, self.left[name] + rate * (now - before))
                waits.append((min(wanted[name], rate) - self.left[name]) / rate)
        if max(waits) <= 0:
            for name in self.rates:
                self.left[name] -= wanted[name]
        return max(waits), retry_headers(self.form, max(waits)) if max(waits) > 0 else {}


def break_connection(request):
    """A reset as a crashed server gives it: RST, not FIN."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def wrapped(text, rng):
    """JSON as models write it where nothing holds them to the form."""
    return rng.choice(
        (text, text, f"```json\n{text}\n```", f"Here is the JSON you asked for:\n\n```json\n{text}\n```\nEnjoy!",
         f"Sure! {text}", f"{text[:-1]},\n{text[-1]}")
    )  # fmt: skip


def reply_of(shape, number, model, text, finish, usage):
    """The body of a chat completion. usage: None = not said."""
    refusal, content = (text, None) if finish == "refusal" else (None, text)
    reason = "stop" if finish == "refusal" else finish
    created = int(time.time())
    if usage is not None:
        counts = {"prompt_tokens": usage["prompt"], "completion_tokens": usage["completion"]}
        counts["total_tokens"] = usage["prompt"] + usage["completion"]
    if shape == "llama_cpp":
        body = {
            "choices": [{"finish_reason": reason, "index": 0,
                         "message": {"role": "assistant", "content": content if content is not None else refusal}}],
            "created": created, "model": model, "system_fingerprint": "b6123-79c1160b", "object": "chat.completion",
            "id": f"chatcmpl-{number:032x}", "timings": {"prompt_n": 20, "prompt_ms": 1.5, "predicted_n": 9},
        }  # fmt: skip
        return body if usage is None else {**body, "usage": counts}
    if shape == "vllm":
        message = {"role": "assistant", "content": content, "refusal": refusal, "annotations": None, "audio": None,
                   "function_call": None, "tool_calls": [], "reasoning_content": None}  # fmt: skip
        return {
            "id": f"chatcmpl-{number:032x}", "object": "chat.completion", "created": created, "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason,
                         "stop_reason": None, "token_ids": None}],
            "service_tier": None, "system_fingerprint": None,
            "usage": None if usage is None else {**counts, "prompt_tokens_details": None},
            "prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None,
        }  # fmt: skip
    body = {
        "id": f"chatcmpl-{number:029x}", "object": "chat.completion", "created": created, "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content, "refusal": refusal,
                                             "annotations": []}, "logprobs": None, "finish_reason": reason}],
        "service_tier": "default", "system_fingerprint": "fp_51db84afab",
    }  # fmt: skip
    if usage is None:
        return body
    details = {
        "prompt_tokens_details": {"cached_tokens": usage["cached"], "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage["reasoning"], "audio_tokens": 0, "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip
    return {**body, "usage": {**counts, **details}}
