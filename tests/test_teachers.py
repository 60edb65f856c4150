"""The teachers of a config: shares, mistakes, one journal and budget for all; a pilot asks live, at planned prices."""

import os
import signal
import threading
import time
from collections import Counter

import pytest
from llm_server import serving

from phi_jax.config import Config
from phi_jax.errors import Preempted, UserError
from phi_jax.teacher.pilot import lines
from phi_jax.teacher.request import PICODOLLARS, Request
from phi_jax.teacher.teachers import Teachers, endpoint_of, parse_shares

WRITER = {
    "model": "gpt-3.5-turbo", "base_url": "http://localhost:1/v1", "key_variable": "", "price_as": "", "mode": "live",
    "window": 8, "batch_requests": 100, "timeout": 10.0, "attempts": 3, "json_mode": "schema",
}  # fmt: skip
BUDGET = {"max_dollars": 1.0, "prices": "", "journal": ""}


def config(budget=BUDGET, **teachers):
    return Config({"teachers": {name: {**WRITER, **fields} for name, fields in teachers.items()}, "budget": budget})


def request(number, model="gpt-3.5-turbo"):
    return Request(model, (("user", f"question {number}"),), max_tokens=500, temperature=0.0)


def test_shares():
    assert parse_shares("writer") == {"writer": 1.0}
    assert parse_shares("a:3, b:1") == {"a": 0.75, "b": 0.25}
    assert parse_shares("a:") == {"a": 1.0}
    for spec in ("", "a:x", "a:0", "a:-1", "a,,b", ":1", "a:inf", "a:nan"):
        with pytest.raises(UserError, match="must read like 'writer' or"):
            parse_shares(spec)
    with pytest.raises(UserError, match="each name once"):
        parse_shares("a,a:2")


def test_requests_go_to_teachers_by_weight_and_each_always_to_the_same(tmp_path):
    chosen = config(writer={}, ours={"model": "ours", "price_as": "local"})
    with Teachers(chosen, tmp_path) as teachers:
        shares = teachers.shares("writer:0.8,ours:0.2")
        names = [endpoint_of(shares, number).name for number in range(5000)]
        assert Counter(names)["ours"] == pytest.approx(1000, abs=120)
        assert [endpoint_of(shares, number).name for number in range(100)] == names[:100]


@pytest.mark.parametrize(
    ("teachers", "budget", "message"),
    [
        (
            {"writer": {"base_url": "localhost:8000"}},
            {},
            "base_url='localhost:8000': must begin with http:// or https://",
        ),
        ({"writer": {}}, {"journal": "gs://bucket/journal"}, "the journal needs a local disk"),
        ({"writer": {}}, {"prices": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_a_field_without_sense_is_one_line(teachers, budget, message, tmp_path):
    with pytest.raises(UserError) as caught:
        Teachers(config({**BUDGET, **budget}, **teachers), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_teachers_of_one_model_are_told_apart_by_name_only(tmp_path):
    chosen = config(a={}, b={"base_url": "http://localhost:2/v1"})
    with Teachers(chosen, tmp_path) as teachers, pytest.raises(UserError, match="are both the model 'gpt-3"):
        teachers.shares("a,b")


def test_several_teachers_one_journal(tmp_path):
    with serving() as server:
        chosen = config(
            writer={"base_url": server.base_url},
            ours={"base_url": server.base_url, "model": "ours", "price_as": "local"},
        )
        with Teachers(chosen, tmp_path) as teachers:
            shares = teachers.shares("writer,ours")
            make = lambda: (request(n, endpoint_of(shares, n).model) for n in range(40))  # noqa: E731
            tally = teachers.ask(make, "test", 40)
            assert tally.found == 0
            replies = [*map(teachers.reply, make())]
            assert {r.status for r in replies} == {"answered"}
            note = teachers.note()
            assert note["teachers"]["writer"]["requests"] + note["teachers"]["ours"]["requests"] == 40
            assert note["teachers"]["ours"]["dollars"] == 0 < note["teachers"]["writer"]["dollars"] == note["dollars"]
            assert note["dollars"] == pytest.approx(teachers.journal.spent / PICODOLLARS)
            with pytest.raises(KeyError, match="has no reply in the journal"):
                teachers.reply(request(41))
        ledger = server.ledger()
        assert Counter(e["model"] for e in ledger)["ours"] >= note["teachers"]["ours"]["requests"]
        with Teachers(chosen, tmp_path) as teachers:
            teachers.shares("writer,ours")
            assert teachers.ask(make, "test", 40).found == 40
        assert len(server.ledger()) == len(ledger)


def test_a_pilot_asks_live(tmp_path):
    with serving() as server:
        chosen = config(writer={"base_url": server.base_url, "mode": "batch"})
        with Teachers(chosen, tmp_path, live=True) as teachers:
            teachers.shares("writer")
            teachers.ask(lambda: map(request, range(5)), "pilot", 5)
        assert {entry["via"] for entry in server.ledger()} == {"live"}


def test_what_a_batch_brought_is_not_paid_again_live(tmp_path):
    """Cancelled half-way: what was done lies in the journal, undrawn; a live run takes it and asks for the rest."""
    with serving(batch_seconds=3.0) as server:
        batches = config(writer={"base_url": server.base_url, "mode": "batch"})
        live = config(writer={"base_url": server.base_url})
        with Teachers(batches, tmp_path) as teachers:
            teachers.shares("writer")
            stopped = threading.Thread(target=terminate_when, args=(lambda: len(server.ledger()) > 5,))
            stopped.start()
            with pytest.raises(Preempted):
                teachers.ask(lambda: map(request, range(60)), "test", 60)
            stopped.join()
        with Teachers(live, tmp_path) as teachers:
            teachers.shares("writer")
            with pytest.raises(UserError, match="batches of an earlier run are still open; go on with"):
                teachers.ask(lambda: map(request, range(60)), "test", 60)
        moved = config(writer={"base_url": server.base_url + "/", "mode": "batch"})
        with Teachers(moved, tmp_path) as teachers:
            teachers.shares("writer")
            with pytest.raises(UserError, match="batches of an earlier run are still open; go on with"):
                teachers.ask(lambda: map(request, range(60)), "test", 60)
        with Teachers(batches, tmp_path) as teachers:
            teachers.shares("writer")
            assert teachers.cancel_batches() == 1
        done = len(server.ledger())
        assert 5 < done < 60
        with Teachers(live, tmp_path) as teachers:
            teachers.shares("writer")
            tally = teachers.ask(lambda: map(request, range(60)), "test", 60)
            assert tally.counts == {"answered": 60}
        assert Counter(entry["via"] for entry in server.ledger()) == {"batch": done, "live": 60 - done}


def terminate_when(condition):
    while not condition():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


# --- Pilots ----------------------------------------------------------------------------------------------------------


def test_what_a_pilot_says():
    text = lines("annotate/python", 10_000, [PICODOLLARS // 100] * 100, Counter({"tests fail": 7}))
    assert text[0].startswith("annotate/python: pilot of 100 of 10,000 requests cost $1.0000")
    assert text[1:] == ["  dollars   $100.00", "  rejected  7.0%; tests fail: 7"]
