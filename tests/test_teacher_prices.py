"""Prices: exact sums, a reservation that no correct server exceeds, the user's own table."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from phi_jax.errors import UserError
from phi_jax.teacher import prices
from phi_jax.teacher.prices import Endpoint, Price, load_prices, most_prompt_tokens, price_of
from phi_jax.teacher.request import PICODOLLARS, Request
from phi_jax.teacher.server.dialect import body_of


class Grade(BaseModel, extra="forbid"):
    reason: str
    grade: int


class Nested(BaseModel, extra="forbid"):
    """One with definitions of its own and characters beyond ASCII: ∀."""

    grades: list[Grade]
    ünïcode: str


AMOUNTS = st.decimals(0, 1000, places=4)
PRICES = st.builds(
    Price, input=AMOUNTS, output=AMOUNTS, cached_input=st.none() | AMOUNTS, batch_percent=st.integers(0, 100)
)
MODES = ["schema", "object", "text"]


def endpoint(mode):
    return Endpoint(
        name="writer", price=Price(input=1, output=1), model="m", base_url="http://127.0.0.1/v1", key_variable="",
        mode="live", window=8, batch_requests=100, timeout=60.0, attempts=3, json_mode=mode,
    )  # fmt: skip


def test_cost_by_hand():
    price = load_prices()["gpt-4.1-mini"]
    usage = (1_000_000, 500_000, 400_000)
    live = Fraction("0.40") * Fraction("0.6") + Fraction("0.10") * Fraction("0.4") + Fraction("1.60") * Fraction("0.5")
    assert price.cost(usage, batch=False) == live * PICODOLLARS
    assert price.cost(usage, batch=True) == live * PICODOLLARS / 2
    assert Price(input="0.000001", output="0.000001", batch_percent=50).cost((2, 1, 0), batch=True) == 2  # rounded up


def chat_template(data, messages, schema):
    """The prompt as a server may put it together, in pieces: (text, special tokens around it)."""
    if data.draw(st.booleans()):  # a default system prompt, as Mistral Small's template has it
        yield "", data.draw(st.integers(0, 700))
    for role, content in messages:
        yield role, data.draw(st.integers(0, 8))
        yield content, data.draw(st.integers(0, 8))
    if schema is not None:
        indent = data.draw(st.sampled_from([None, 1, 2, 4]))
        yield json.dumps(schema.model_json_schema(), indent=indent), 40
    yield "assistant", data.draw(st.integers(0, 8))


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1, max_size=4),
    st.sampled_from([None, Grade, Nested]), st.sampled_from(MODES), st.integers(0, 5000), PRICES,
    st.booleans(), st.data(),
)  # fmt: skip
def test_no_correct_server_charges_more_than_the_reservation(messages, schema, mode, limit, price, batch, data):
    """Tokens of one byte each are the most that a text can make; what is cached or reasoned is any part of it."""
    request = Request("m", tuple(messages), limit, 1.0, schema=schema)
    sent = body_of(endpoint(mode), request)["messages"]
    template = chat_template(data, [(m["role"], m["content"]) for m in sent], schema if mode == "schema" else None)
    prompt = sum(len(text.encode()) + special for text, special in template)
    usage = (prompt, limit, data.draw(st.integers(0, prompt)))
    assert price.cost(usage, batch=batch) <= price.reservation(request, batch=batch)


def test_the_reservation_by_hand():
    price = Price(input=3, cached_input=5, output=7, batch_percent=50)
    request = Request("m", (("user", "é" * 10),), 100, 0.0)
    assert most_prompt_tokens(request) == 4 + 20 + 16 + 1024
    assert price.reservation(request, batch=False) == (1064 * 5 + 700) * 10**6
    assert price.reservation(request, batch=True) == (1064 * 5 + 700) * 10**6 // 2


def table(**models):
    return {"unit": "dollars per million tokens", "models": models}


def written(tmp_path, value):
    path = tmp_path / "mine.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_every_packaged_entry_says_when_and_where_from():
    table = json.loads(Path(prices.__file__).with_name("prices.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", table["as_of"])
    for name, entry in table["models"].items():
        assert set(entry) == {"input", "cached_input", "output", "batch_percent", "as_of", "source"}, name
        assert re.match(r"20\d\d(-\d\d){0,2}$", entry["as_of"]), name
        assert len(entry["source"]) > 20, name
        assert entry["cached_input"] <= entry["input"] <= entry["output"], name


def test_the_users_entries_replace_those_of_the_same_name(tmp_path):
    mine = {"input": 0.123456, "output": 3, "as_of": "2030-01-01"}
    both = load_prices(written(tmp_path, table(**{"gpt-4.1-mini": mine, "mine": mine})))
    expected = Price(input="0.123456", output=3, as_of="2030-01-01")
    assert price_of("writer", "gpt-4.1-mini", "", both) == price_of("writer", "m", "mine", both) == expected
    assert both["gpt-4.1"] == load_prices()["gpt-4.1"]
    with pytest.raises(UserError, match=r"writer: no price of 'no-such-model' in the price table; .*writer\.price_as"):
        price_of("writer", "no-such-model", "", both)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("{", "Invalid JSON"),
        ([], "object"),
        ({"models": {}}, "unit: "),
        (table(m=3), "models.m: "),
        (table(m={"input": 1}), "models.m.output: "),
        (table(m={"input": "one", "output": 1}), "models.m.input: "),
        (table(m={"input": -1, "output": 1}), "models.m.input: "),
        (table(m={"input": True, "output": 1}), "models.m.input: "),
        (table(m={"input": 1e9, "output": 1}), "models.m.input: "),
        (json.dumps(table(m={"input": 1, "output": float("nan")})), "models.m.output: "),
        (table(m={"input": 1, "output": 1, "batch_percent": 0.5}), "models.m.batch_percent: "),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path, value, what):
    with pytest.raises(UserError, match=rf"mine\.json: no price table \(.*{what}.*it needs") as raised:
        load_prices(written(tmp_path, value))
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: no such file, or no regular one"):
        load_prices(str(tmp_path / "nowhere.json"))
