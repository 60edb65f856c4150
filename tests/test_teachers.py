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
from phi_jax.teacher.pilot import lines, project
from phi_jax.teacher.request import PICODOLLARS, Request, Status
from phi_jax.teacher.teachers import Teachers, parse_shares

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
    with pytest.raises(UserError, match="names one teacher twice"):
        parse_shares("a,a:2")


def test_requests_go_to_teachers_by_weight_and_each_always_to_the_same(tmp_path):
    chosen = config(writer={}, ours={"model": "ours", "price_as": "local"})
    with Teachers.of(chosen, tmp_path) as teachers:
        shares = teachers.shares("writer:0.8,ours:0.2")
        names = [shares.endpoint(number).name for number in range(5000)]
        assert Counter(names)["ours"] == pytest.approx(1000, abs=120)
        assert [shares.endpoint(number).name for number in range(100)] == names[:100]


@pytest.mark.parametrize(
    ("teachers", "budget", "message"),
    [
        (
            {"writer": {"base_url": "localhost:8000"}},
            {},
            "base_url='localhost:8000': must begin with http:// or https://",
        ),
        ({"writer": {"model": ""}}, {}, "config.teachers.writer.model is empty"),
        ({"writer": {}}, {"journal": "gs://bucket/journal"}, "the journal needs a local disk"),
        ({"writer": {}}, {"prices": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_a_field_without_sense_is_one_line(teachers, budget, message, tmp_path):
    with pytest.raises(UserError) as caught:
        Teachers.of(config({**BUDGET, **budget}, **teachers), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_teachers_of_one_model_are_told_apart_by_name_only(tmp_path):
    with Teachers.of(config(a={}, b={"base_url": "http://localhost:2/v1"}), tmp_path) as teachers:
        with pytest.raises(UserError, match="are both the model 'gpt-3"):
            teachers.shares("a,b")
        with pytest.raises(UserError, match=r"no section config\.teachers\.c; there are: a, b"):
            teachers.shares("c")


def test_several_teachers_one_journal(tmp_path):
    with serving() as server:
        chosen = config(
            writer={"base_url": server.base_url},
            ours={"base_url": server.base_url, "model": "ours", "price_as": "local"},
        )
        with Teachers.of(chosen, tmp_path) as teachers:
            shares = teachers.shares("writer,ours")
            make = lambda: (request(n, shares.endpoint(n).model) for n in range(40))  # noqa: E731
            tally = teachers.ask(make, "test", 40)
            assert tally.found == 0
            replies = [reply for _, reply in teachers.replies(make())]
            assert {r.status for r in replies} == {Status.ANSWERED}
            note = teachers.note()
            assert note["teachers"]["writer"]["requests"] + note["teachers"]["ours"]["requests"] == 40
            assert note["teachers"]["ours"]["dollars"] == 0 < note["teachers"]["writer"]["dollars"] == note["dollars"]
            assert note["dollars"] == pytest.approx(teachers.journal.spent / PICODOLLARS)
            with pytest.raises(KeyError, match="has no reply in the journal"):
                teachers.reply(request(41).key)
        ledger = server.ledger()
        assert Counter(e["model"] for e in ledger)["ours"] >= note["teachers"]["ours"]["requests"]
        with Teachers.of(chosen, tmp_path) as teachers:
            teachers.shares("writer,ours")
            assert teachers.ask(make, "test", 40).found == 40
        assert len(server.ledger()) == len(ledger)


def test_a_pilot_asks_live_and_counts_what_the_batch_will_cost(tmp_path):
    with serving() as server:
        chosen = config(writer={"base_url": server.base_url, "mode": "batch"})
        with Teachers.of(chosen, tmp_path, live=True) as teachers:
            teachers.shares("writer")
            make = lambda: map(request, range(5))  # noqa: E731
            teachers.ask(make, "pilot", 5)
            pairs = list(teachers.replies(make()))
        assert {entry["via"] for entry in server.ledger()} == {"live"}
        for asked, reply in pairs:
            assert teachers.planned_cost(asked, reply) == -(-reply.cost // 2)


def test_what_a_batch_brought_is_not_paid_again_live(tmp_path):
    """Cancelled half-way: what was done lies in the journal, undrawn; a live run takes it and asks for the rest."""
    with serving(batch_seconds=1.0) as server:
        batches = config(writer={"base_url": server.base_url, "mode": "batch"})
        live = config(writer={"base_url": server.base_url})
        with Teachers.of(batches, tmp_path) as teachers:
            teachers.shares("writer")
            stopped = threading.Thread(target=terminate_when, args=(lambda: len(server.ledger()) > 5,))
            stopped.start()
            with pytest.raises(Preempted):
                teachers.ask(lambda: map(request, range(60)), "test", 60)
            stopped.join()
        with Teachers.of(live, tmp_path) as teachers:
            teachers.shares("writer")
            with pytest.raises(UserError, match="batches of an earlier run are still open; go on with"):
                teachers.ask(lambda: map(request, range(60)), "test", 60)
        moved = config(writer={"base_url": server.base_url + "/", "mode": "batch"})
        with Teachers.of(moved, tmp_path) as teachers:
            teachers.shares("writer")
            with pytest.raises(UserError, match="batches of an earlier run are still open; go on with"):
                teachers.ask(lambda: map(request, range(60)), "test", 60)
        with Teachers.of(batches, tmp_path) as teachers:
            teachers.shares("writer")
            assert teachers.cancel_batches() == 1
        done = len(server.ledger())
        assert 5 < done < 60
        with Teachers.of(live, tmp_path) as teachers:
            teachers.shares("writer")
            tally = teachers.ask(lambda: map(request, range(60)), "test", 60)
            assert tally.counts == {Status.ANSWERED: 60}
        assert Counter(entry["via"] for entry in server.ledger()) == {"batch": done, "live": 60 - done}


def terminate_when(condition):
    while not condition():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


# --- Pilots ----------------------------------------------------------------------------------------------------------


def pilot(costs, *, total=10_000, rejected=0, asked=None, seconds=60.0, batch=False):
    asked = len(costs) if asked is None else asked
    rejected = Counter({"tests fail": rejected})
    return {"total": total, "costs": costs, "rejected": rejected, "asked": asked, "seconds": seconds, "batch": batch}


def test_figures_worked_out_by_hand():
    # 1, 2 and 3 millidollars: mean 2, standard deviation 1; 1.96 / sqrt(3) = 1.1316 around it.
    found = project(**pilot([PICODOLLARS // 1000 * n for n in (1, 2, 3)], rejected=1, seconds=36.0))
    assert found["dollars"] == pytest.approx((20, 20 - 11.316, 20 + 11.316), abs=1e-3)
    # Wilson's interval of 1 in 3, as statistics books have it.
    assert found["rejected"] == pytest.approx((1 / 3, 0.0615, 0.7923), abs=1e-4)
    hours, low, high = found["hours"]
    assert hours == pytest.approx(10_000 * 12 / 3600)
    assert low < hours < high


def test_what_a_pilot_cannot_tell_it_does_not():
    costs = [10**9, 2 * 10**9]
    assert "hours" not in project(**pilot(costs, asked=0))
    assert "every reply was in the journal already" in "\n".join(lines("synthesize/teacher", pilot(costs, asked=0)))
    assert "the Batch API answers within 24 hours" in "\n".join(lines("synthesize/teacher", pilot(costs, batch=True)))
    with pytest.raises(UserError, match="--pilot 1: too few requests for an interval; use 200"):
        project(**pilot([5]))


def test_what_the_user_reads():
    text = lines("annotate/python", pilot([PICODOLLARS // 100] * 100, rejected=7, seconds=10.0))
    assert text[0].startswith("annotate/python: pilot of 100 of 10,000 requests cost $1.0000")
    assert text[1] == "  dollars   $100.00 ($100.00 to $100.00)"
    assert text[2].startswith("  rejected  7.0% (")
    assert text[2].endswith("; tests fail: 7")
    assert text[3].startswith("  hours     0.28 (")
