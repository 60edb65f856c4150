"""What a server is sent and what it says: JSON replies, parameters that it refuses, completions, errors, waits."""

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from phi_jax.teacher.request import Endpoint, Request, Status, Usage
from phi_jax.teacher.server import json_mode
from phi_jax.teacher.server.answers import (
    LONGEST_WAIT,
    Completion,
    Failure,
    read_completion,
    read_failure,
    read_usage,
    retry_after,
    usable,
)
from phi_jax.teacher.server.dialect import Dialect


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
        f"```json\n{GOOD}\n```",
        f"Sure! Here is what you asked for:\n\n```\n{GOOD}\n```\nI hope this helps {{really}}.",
        f"I compared {{1, 2}} with {{}}. {GOOD} Done.",
        '{"reason": "clear", "grade": 7,}',
        '{"reason": "clear", "grade": 7, "parts": [],\n}',
        "<think>maybe {\"reason\": \"wrong\", \"grade\": 1}? no</think>" + GOOD,
        '{"answer": 1} ' + GOOD,
    ],
)  # fmt: skip
def test_what_can_be_mended_is(text):
    fitted = json.loads(json_mode.fit(text, Whole))
    assert (fitted["reason"], fitted["grade"]) == ("clear", 7)


def test_mending_leaves_strings_alone():
    text = '{"reason": "f(x, ]) and {\\"a\\": 1,}", "grade": 7,}'
    assert json.loads(json_mode.fit(text, Whole))["reason"] == 'f(x, ]) and {"a": 1,}'
    assert json.loads(json_mode.fit('{"reason": "two\nlines", "grade": 7}', Whole))["reason"] == "two\nlines"


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
def test_what_cannot_be_mended_says_why_in_one_line(text, says):
    with pytest.raises(ValueError) as failed:  # noqa: PT011
        json_mode.fit(text, Whole)
    assert says in str(failed.value)
    assert "\n" not in str(failed.value)


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_fits_or_is_a_misfit(text):
    try:
        Whole.model_validate_json(json_mode.fit(text, Whole))
    except ValueError as misfit:
        assert "\n" not in str(misfit)  # noqa: PT017


def endpoint(**changes):
    fields = {"name": "writer", "model": "m", "base_url": "http://127.0.0.1/v1", "key_variable": "", "price_as": "",
              "mode": "live", "window": 4, "batch_requests": 100, "timeout": 30.0, "attempts": 3}  # fmt: skip
    return Endpoint(**{**fields, **changes})


ASKED = Request("m", (("system", "s"), ("user", "Grade it.")), 50, 0.5, 3, Whole)
PLAIN = Request("m", (("user", "Write."),), 50, 0.5, 3)


@pytest.mark.parametrize(("mode", "kind"), [("schema", "json_schema"), ("object", "json_object"), ("text", None)])
def test_where_the_schema_goes_in_each_mode(mode, kind):
    dialect = Dialect(endpoint(json_mode=mode))
    body = dialect.body(ASKED, (("assistant", "{}"), ("user", "Again.")))
    assert ["JSON Schema" in message["content"] for message in body["messages"]] == [
        False,
        mode != "schema",
        False,
        False,
    ]
    assert body["messages"][0] == {"role": "system", "content": "s"}
    assert body["messages"][-1] == {"role": "user", "content": "Again."}
    assert body.get("response_format", {}).get("type") == kind
    assert dialect.body(PLAIN) == {
        "model": "m", "messages": [{"role": "user", "content": "Write."}], "max_tokens": 50, "temperature": 0.5,
        "seed": 3,
    }  # fmt: skip


def test_what_a_server_refuses_is_no_longer_sent(capfd):
    dialect = Dialect(endpoint())
    refusal = "HTTP 400: Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    assert dialect.learn(refusal, "")
    assert dialect.learn(refusal, "")  # of a request that went out before
    assert not dialect.learn(refusal, dialect.refused)
    assert dialect.learn('HTTP 422: [{"type": "extra_forbidden", "loc": ["body", "seed"]}]', dialect.refused)
    assert not dialect.learn("HTTP 400: keep your temperature down", dialect.refused)
    assert capfd.readouterr().err.count("from here on") == 2
    again = Dialect(endpoint(), f"max_tokens {dialect.refused}")  # as a journal remembers it
    assert again.refused == dialect.refused == "max_completion_tokens seed"
    assert set(again.body(PLAIN)) == {"model", "messages", "max_completion_tokens", "temperature"}


def test_replies_that_fit_show_that_the_json_mode_is_honoured():
    held, ignored = Dialect(endpoint()), Dialect(endpoint())
    held.note_fit(ASKED, Status.ANSWERED)
    for dialect in (held, ignored):
        dialect.note_fit(PLAIN, Status.POISONED)
        dialect.note_fit(ASKED, Status.LENGTH)
        assert dialect.refused == ""
        dialect.note_fit(ASKED, Status.POISONED)
    assert (held.refused, ignored.refused) == ("", "response_format")


def completion(content="hello", finish="stop", **more):
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    return {"model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (completion(), Status.ANSWERED, "hello"),
        (completion([{"type": "thinking"}, {"type": "text", "text": "hello"}]), Status.ANSWERED, "hello"),
        (completion(finish="length"), Status.LENGTH, "hello"),
        (completion(finish="content_filter"), Status.FILTERED, "hello"),
        (completion(None, message={"refusal": "I\ncannot."}), Status.REFUSED, ""),
        (completion("\ud800"), Status.ANSWERED, "?"),
        (completion(finish="model_length"), Status.LENGTH, "hello"),
        (completion(None), Status.POISONED, ""),
        (completion(" \n"), Status.POISONED, " \n"),
        (completion(None, finish="length"), Status.LENGTH, ""),
        (completion(finish="error"), Status.POISONED, "hello"),
        (completion(finish=None), Status.POISONED, "hello"),
    ],
)
def test_what_a_completion_says(body, status, text):
    read = read_completion(body, "")
    assert (read.status, read.text, read.model) == (status, text, "m-1")
    assert (read.reason == "") == (status is Status.ANSWERED)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"choices": []}, {"choices": [{}]}, {"choices": 3, "error": 1}])
def test_what_is_no_completion(body):
    read = read_completion(body, "")
    assert (read.kind, read.lost) == ("failed", True)
    assert read.reason.startswith("the reply is no chat completion")


def test_an_error_that_comes_with_status_200_is_shown():
    assert "quota of today" in read_completion({"error": {"message": "quota of today"}}, "").reason


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (401, b"no", "fatal", "does not accept the API key"),
        (403, b'{"error": {"message": "flagged"}}', "refused", "HTTP 403: flagged; "),
        (402, b"", "fatal", "no credit or quota"),
        (429, b'{"error": {"code": "insufficient_quota"}}', "fatal", "no credit or quota"),
        (429, b'{"error": {"code": "rate_limit_exceeded", "message": "slow"}}', "limited", "HTTP 429: slow"),
        (404, b'{"message": "the model `m` is not here"}', "fatal", "no model 'm'"),
        (404, b"<html>", "refused", "HTTP 404: <html>"),
        (
            500,
            b'{"detail": "bearer sk-abcdefgh and key-12345678"}',
            "failed",
            'HTTP 500: {"detail": "[key] and [key]"}',
        ),
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


def test_only_a_reply_that_fits_is_usable():
    def said(text, status=Status.ANSWERED):
        return usable(ASKED, Completion(status, text, "why", None, "m"))

    assert json.loads(said(GOOD))["grade"] == 7
    assert said("half", Status.LENGTH) == "half"
    unfit = said("no JSON")
    assert (unfit.kind, unfit.lost) == ("unfit", False)
    assert unfit.correction[0] == ("assistant", "no JSON")
    assert said("", Status.POISONED) == Failure("failed", "why")


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, Usage(5, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": None}, Usage(5, 7)),
        (
            {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4},
             "completion_tokens_details": {"reasoning_tokens": 6}}, Usage(5, 7, 4, 6),
        ),
        (None, None),
        ({"prompt_tokens": 5}, None),
        ({"prompt_tokens": 5, "completion_tokens": -7}, None),
        ({"prompt_tokens": 5, "completion_tokens": "7"}, None),
        ({"prompt_tokens": 5, "completion_tokens": True}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 7}, None),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 6}}, None),
    ],
)  # fmt: skip
def test_a_usage_is_believed_where_it_makes_sense(usage, read):
    assert read_usage(usage) == read


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "refusal", "usage", "prompt_tokens", "type", "text"]),
            inner,
        )
    ),
    max_leaves=30,
)


@given(JSON)
def test_any_body_is_read_or_is_no_completion(body):
    read = read_completion(body, "")
    assert "\n" not in read.reason
    assert isinstance(read, Failure) or read.text.encode() is not None


# --- Waits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e300"}, LONGEST_WAIT),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({}, None),
    ],
)
def test_what_a_reply_asks_to_wait(headers, seconds):
    assert retry_after(headers) == seconds


@given(st.text(max_size=12))
def test_headers_of_any_text_are_read_or_passed_over(text):
    for name in ("retry-after", "retry-after-ms"):
        wait = retry_after({name: text})
        assert wait is None or wait >= 0
