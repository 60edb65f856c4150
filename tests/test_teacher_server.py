"""What a server is sent and what it says: JSON replies, parameters that it refuses, completions, errors, waits."""

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from phi_jax.teacher.prices import Endpoint, Price
from phi_jax.teacher.request import Request
from phi_jax.teacher.server.answers import (
    LONGEST_WAIT,
    Failure,
    read_completion,
    read_failure,
    read_line,
    read_usage,
    retry_after,
)
from phi_jax.teacher.server.dialect import body_of, fit, refused_parameter


class Part(BaseModel):
    name: str
    default: int = 3  # named as a keyword of JSON Schema


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: str
    grade: int = Field(ge=0, le=10)
    parts: list[Part] = []
    kind: Literal["a", "b"] = "a"


GOOD = '{"reason": "clear", "grade": 7}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Sure! Here is what you asked for:\n\n```\n{GOOD}\n```\nI hope this helps {{really}}.",
        f"I compared {{1, 2}} with {{}}. {GOOD} Done.",
        "<think>maybe {\"reason\": \"wrong\", \"grade\": 1}? no</think>" + GOOD,
        '{"answer": 1} ' + GOOD,
        f'```json\n{GOOD[:-1]}, "parts": [],\n}}\n```',
    ],
)  # fmt: skip
def test_the_object_that_fits_is_found(text):
    fitted = json.loads(fit(text, Whole))
    assert (fitted["reason"], fitted["grade"]) == ("clear", 7)
    assert json.loads(fit('{"reason": "two\nlines", "grade": 7}', Whole))["reason"] == "two\nlines"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ('{"reason": "clear", "gra', "no JSON object"),
        ('{"answer": 1}', "reason: Field required"),
        ('{"reason": "clear", "grade": 11}', "grade: Input should be less than or equal to 10"),
        ('{"reason": "clear", "grade": 7, "more": 1}', "more: Extra inputs"),
        ('{"reason": "\\ud800", "grade": 7}', ""),
        ("[" * 100_000, "no JSON object"),
        ('{"a":' * 5_000, "no JSON object"),
    ],
)
def test_a_reply_that_does_not_fit_says_why_in_one_line(text, says):
    with pytest.raises(ValueError) as failed:  # noqa: PT011
        fit(text, Whole)
    assert says in str(failed.value)
    assert "\n" not in str(failed.value)


def endpoint(**changes):
    fields = {"name": "writer", "model": "m", "base_url": "http://127.0.0.1/v1", "key_variable": "",
              "price": Price(input=1, output=1), "mode": "live",
              "window": 4, "batch_requests": 100, "timeout": 30.0, "attempts": 3}  # fmt: skip
    return Endpoint(**{**fields, **changes})


ASKED = Request("m", (("system", "s"), ("user", "Grade it.")), 50, 0.5, 3, Whole)
PLAIN = Request("m", (("user", "Write."),), 50, 0.5, 3)


@pytest.mark.parametrize(("mode", "kind"), [("schema", "json_schema"), ("object", "json_object"), ("text", None)])
def test_where_the_schema_goes_in_each_mode(mode, kind):
    body = body_of(endpoint(json_mode=mode), ASKED, tries=2)
    assert ["JSON Schema" in m["content"] for m in body["messages"]] == [False, mode != "schema"]
    assert body["messages"][0] == {"role": "system", "content": "s"}
    assert body["seed"] == ASKED.seed + 2000
    assert body.get("response_format", {}).get("type") == kind
    assert body_of(endpoint(json_mode=mode), PLAIN) == {
        "model": "m", "messages": [{"role": "user", "content": "Write."}], "max_tokens": 50, "temperature": 0.5,
        "seed": 3,
    }  # fmt: skip


def test_what_a_server_refuses_is_known_by_its_quotes_and_no_longer_sent():
    said = "HTTP 400: Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    assert refused_parameter(said) == "max_completion_tokens"
    assert refused_parameter('HTTP 422: [{"type": "extra_forbidden", "loc": ["body", "seed"]}]') == "seed"
    assert refused_parameter("HTTP 400: keep your temperature down") == ""
    body = body_of(endpoint(), ASKED, refused={"max_completion_tokens", "seed", "response_format"})
    assert set(body) == {"model", "messages", "max_completion_tokens", "temperature"}
    assert "JSON Schema" in body["messages"][1]["content"]


def completion(content="hello", finish="stop", **more):
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    return {"model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (completion(), "answered", "hello"),
        (completion([{"type": "thinking"}, {"type": "text", "text": "hello"}]), "answered", "hello"),
        (completion(finish="length"), "length", "hello"),
        (completion(finish="content_filter"), "filtered", "hello"),
        (completion(None, message={"refusal": "I\ncannot."}), "refused", ""),
        (completion("\ud800"), "answered", "?"),
        (completion(finish="model_length"), "length", "hello"),
        (completion(None), "poisoned", ""),
        (completion(" \n"), "poisoned", " \n"),
        (completion(finish=None), "poisoned", "hello"),
    ],
)
def test_what_a_completion_says(body, status, text):
    found, said, reason, model, _ = read_completion(body, endpoint(), "")
    assert (found, said, model) == (status, text, "m-1")
    assert (reason == "") == (status == "answered")


@pytest.mark.parametrize("body", [None, [], {}, {"choices": [{}]}, {"error": {"message": "quota of today"}}])
def test_what_is_no_completion(body):
    read = read_completion(body, endpoint(), "")
    assert (read.kind, read.lost) == ("failed", True)
    assert read.reason.startswith("the reply is no chat completion")
    assert not isinstance(body, dict) or not body.get("error") or "quota of today" in read.reason


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (401, b"no", "fatal", "check the API key in"),
        (403, b'{"error": {"message": "flagged"}}', "refused", "flagged"),
        (402, b"", "fatal", "credit or quota"),
        (429, b'{"error": {"code": "insufficient_quota"}}', "fatal", "credit or quota"),
        (429, b'{"error": {"code": "rate_limit_exceeded", "message": "slow"}}', "limited", "slow"),
        (404, b'{"message": "the model `m` is not here"}', "fatal", "model=m"),
        (404, b"<html>", "refused", "HTTP 404: <html>"),
        (500, b'{"detail": "bearer sk-abcdefgh and key-12345678"}', "failed", '{"detail": "[key] and [key]"}'),
        (408, b"", "failed", "HTTP 408"),
        (400, b"\xff" * 9000, "refused", "..."),
    ],
)
def test_what_an_error_means(status, body, kind, reason):
    failure = read_failure(endpoint(), status, body, "")
    assert failure.kind == kind
    assert reason in failure.reason
    assert not failure.lost
    assert len(failure.reason) < 600


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": None}, (5, 7, 0)),
        (
            {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4},
             "completion_tokens_details": {"reasoning_tokens": 6}}, (5, 7, 4),
        ),
        (None, None),
        ({"prompt_tokens": 5}, None),
        ({"prompt_tokens": 5, "completion_tokens": -7}, None),
        ({"prompt_tokens": 5, "completion_tokens": True}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 7}, None),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 6}}, None),
    ],
)  # fmt: skip
def test_a_usage_is_believed_where_it_makes_sense(usage, read):
    assert read_usage(usage) == read


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["custom_id", "response", "status_code", "body", "error", "choices", "message", "content",
                         "refusal", "usage", "prompt_tokens", "type", "text", "finish_reason", "code"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_any_body_is_read_or_is_no_completion(body):
    read = read_completion(body, endpoint(), "")
    assert isinstance(read, Failure) or read[1].encode() is not None


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_of_a_batch_is_read_or_set_aside(text):
    line = read_line(text, endpoint(), "sk-secret")
    assert isinstance(line[1], tuple | Failure)


def test_a_key_in_a_line_is_blotted_out():
    body = completion("the key is sk-secret-123")
    record = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
    _, answer = read_line(json.dumps(record).encode(), endpoint(), "sk-secret-123")
    assert answer[1] == "the key is [key]"
    record = {"custom_id": "a", "response": None, "error": {"code": "x", "message": "with sk-secret-123"}}
    _, failure = read_line(json.dumps(record).encode(), endpoint(), "sk-secret-123")
    assert "secret" not in failure.reason


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0.25", 0.25),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 2155 07:28:00 GMT", LONGEST_WAIT),
        ("-1", None),
        ("nan", None),
        ("1e300", LONGEST_WAIT),
        (None, None),
    ],
)
def test_what_a_reply_asks_to_wait(header, seconds):
    assert retry_after({} if header is None else {"retry-after": header}) == seconds
