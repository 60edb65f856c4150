"""JSON replies: schemas as strict modes want them, replies mended where they can be, complaints where not."""

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from phi_jax.teacher import structured
from phi_jax.teacher.completion import read_completion, read_usage
from phi_jax.teacher.request import Request, Status, Usage
from phi_jax.teacher.structured import Misfit, Rung


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
    fitted = json.loads(structured.fit(text, Whole))
    assert (fitted["reason"], fitted["grade"]) == ("clear", 7)


def test_mending_leaves_strings_alone():
    text = '{"reason": "f(x, ]) and {\\"a\\": 1,}", "grade": 7,}'
    assert json.loads(structured.fit(text, Whole))["reason"] == 'f(x, ]) and {"a": 1,}'
    assert json.loads(structured.fit('{"reason": "two\nlines", "grade": 7}', Whole))["reason"] == "two\nlines"


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
    with pytest.raises(Misfit) as failed:
        structured.fit(text, Whole)
    assert says in str(failed.value)
    assert "\n" not in str(failed.value)


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_fits_or_is_a_misfit(text):
    try:
        Whole.model_validate_json(structured.fit(text, Whole))
    except Misfit as misfit:
        assert "\n" not in str(misfit)  # noqa: PT017


def test_each_object_of_a_strict_schema_is_closed_and_each_property_required():
    schema = structured.strict_schema(Whole)
    part = schema["$defs"]["Part"]
    for made, names in ((schema, ["reason", "grade", "parts", "kind"]), (part, ["name", "default"])):
        assert made["additionalProperties"] is False
        assert made["required"] == names == list(made["properties"])
    assert "default" not in schema["properties"]["kind"]
    assert schema["properties"]["kind"]["enum"] == ["a", "b"]


def test_where_the_schema_goes_on_each_rung():
    request = Request("m", (("system", "s"), ("user", "Grade it.")), 50, 0.5, 3, Whole)
    plain = Request("m", (("user", "Write."),), 50, 0.5, 3)
    for rung in Rung:
        messages = structured.messages_on(rung, request)
        body = structured.request_body(request, rung)
        in_prompt = "JSON Schema" in messages[-1][1]
        assert in_prompt == (rung is not Rung.JSON_SCHEMA)
        assert body.get("response_format", {}).get("type") == (None if rung is Rung.PROMPT else rung.value)
        assert messages[0] == ("system", "s")
        assert "response_format" not in structured.request_body(plain, rung)
        assert structured.messages_on(rung, plain) == plain.messages
    assert structured.request_body(plain, Rung.PROMPT, limit_as="max_completion_tokens") == {
        "model": "m", "messages": [{"role": "user", "content": "Write."}], "max_completion_tokens": 50,
        "temperature": 0.5, "seed": 3,
    }  # fmt: skip


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
        (completion(None), Status.ANSWERED, ""),
    ],
)
def test_what_a_completion_says(body, status, text):
    read = read_completion(body)
    assert (read.status, read.text, read.model) == (status, text, "m-1")
    assert (read.reason == "") == (status is Status.ANSWERED)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"choices": []}, {"choices": [{}]}, {"error": {"message": "x"}}])
def test_what_is_no_completion(body):
    with pytest.raises(ValueError, match="no chat completion"):
        read_completion(body)


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
    try:
        read = read_completion(body)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert read.text.encode() is not None
