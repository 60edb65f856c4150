"""The Batch API against a real server: money, odd lines, kills at each phase, caps, cancelling."""

import asyncio
import collections
import contextlib
import json
import re
import sqlite3
import urllib.request

import pytest
from killed_batch import PRICE, Exercise, ask, cancel, endpoint, requests
from llm_server import serving
from running import python

from phi_jax.errors import UserError
from phi_jax.teacher.journal import FILE, Journal
from phi_jax.teacher.request import Request
from phi_jax.teacher.server import batch
from phi_jax.teacher.server.answers import Failure, read_line
from phi_jax.teacher.server.batch import Batches


def charged(ledger, via="batch"):
    """Picodollars by the server's own count."""
    usages = [(e["prompt"], e["completion"], e.get("cached", 0)) for e in ledger if e["via"] == via]
    return sum(PRICE.cost(usage, batch=via == "batch") for usage in usages)


def times_asked(ledger):
    return collections.Counter(e["custom_id"] for e in ledger if e["via"] == "batch")


def test_each_request_once_in_batches_of_the_size_asked_for(tmp_path):
    asked = list(requests(110))
    with serving() as server, Journal(tmp_path) as journal:
        replies = ask(journal, endpoint(server.base_url, batch_requests=50), iter(asked))
        assert {r.key for r in replies} == {r.key for r in asked}
        assert collections.Counter(r.status for r in replies) == {"answered": 110}
        assert [journal.find(r.key) for r in replies] == replies
        ledger = server.ledger()
        assert times_asked(ledger) == {request.key: 1 for request in asked}
        assert sorted(collections.Counter(e["batch"] for e in ledger).values()) == [10, 50, 50]
        assert journal.spent == charged(ledger) == sum(r.cost for r in replies)
        assert journal.reserved == 0
        assert all(reply.attempts == 1 and reply.text for reply in replies)


def test_odd_lines_and_odd_batches(tmp_path):
    """Wrong schema, refusals, filter, length, errors, no usage, duplicates, batches that expire or fail."""
    asked = list(requests(120, Exercise))
    options = {"faults": 0.4, "kinds": ["wrong_schema", "refusal", "content_filter", "length", "no_usage"],
               "batch_errors": 0.1, "batch_duplicates": 0.3, "batch_expire": 0.4, "seed": 3,
               "batch_seconds": 0.05}  # fmt: skip
    with serving(**options) as server, Journal(tmp_path) as journal:
        replies = ask(journal, endpoint(server.base_url, batch_requests=40), iter(asked))
        assert sorted(r.key for r in replies) == sorted(r.key for r in asked)
        counts = collections.Counter(r.status for r in replies)
        assert counts["answered"] > 40
        assert all(counts[status] for status in ("refused", "filtered", "length"))
        for reply in replies:
            assert journal.find(reply.key) == reply
            assert (reply.reason == "") == (reply.status == "answered")
            if reply.status == "answered":
                Exercise.model_validate_json(reply.text)
        ledger = server.ledger()
        assert max(times_asked(ledger).values()) <= 3
        unmetered = [e for e in ledger if e.get("fault") == "no_usage"]
        assert unmetered
        assert journal.spent > charged(ledger) + charged(ledger, "live")
        assert journal.reserved == 0
        assert any(e["fault"] == "wrong_schema" for e in ledger)
        attempts = {reply.key: reply.attempts for reply in replies}
        assert max(attempts.values()) > 1


def batches_of(server):
    """All batches that the server has, by its own list."""
    with urllib.request.urlopen(f"{server.base_url}/batches?limit=1000", timeout=30) as answer:
        return json.load(answer)["data"]


# --- Kills -----------------------------------------------------------------------------------------------------------

# Where a child dies: what killed_batch.py is told.
MOMENTS = {
    "nothing is noted yet": ("before", "_plan", 1),
    "a plan is noted, with its reservations": ("after", "_plan", 1),
    "the file is uploaded, its name not recorded": ("before", "_record", 1),
    "the file's name is recorded": ("after", "_record", 1),
    "the batch is made, its name not recorded": ("before", "_record", 2),
    "the batch's name is recorded": ("after", "_record", 2),
    "polling": ("after", "_record", 2, 0.3),
    "one part is booked, not one reply is read": ("after", "_book", 1),
    "all is booked, the plan is open": ("before", "_close", 1),
    "the plan is closed": ("after", "_close", 1),
    "some replies are read": ("after", "_claim", 10),
}


def killed_again_and_again(tmp_path, moments, count=90, size=30, **options):
    """One journal, killed at each of the moments in turn, then asked to the end.

    Returns the server's ledger and, for each moment, (moment, open plans, completions not yet read, batches made).
    """
    seen = []
    with serving(batch_seconds=0.1, **options) as server:
        for moment in moments:
            arguments = [server.base_url, tmp_path, count, size, *MOMENTS[moment]]
            done = python("tests/killed_batch.py", *arguments, timeout=120)
            assert done.returncode == -9, f"{moment}: not killed\n{done.stderr}"
            with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
                spent, reserved = database.execute(
                    "SELECT sum(coalesce(cost, 0)), sum(iif(cost IS NULL, reservation, 0)) FROM attempts"
                ).fetchone()
                open_plans = database.execute("SELECT file, batch FROM batches WHERE NOT ended").fetchall()
                arrived = database.execute("SELECT count(*) FROM arrived").fetchone()[0]
            assert (spent or 0) + (reserved or 0) >= charged(server.ledger()), moment
            seen.append((moment, open_plans, arrived, len(batches_of(server))))
        with Journal(tmp_path) as journal:
            asked = list(requests(count, Exercise))
            ask(journal, endpoint(server.base_url, batch_requests=size), (r for r in asked if not journal.find(r.key)))
            assert {journal.find(r.key).status for r in asked} == {"answered"}
            assert journal.reserved == 0
            assert journal.read("SELECT count(*) FROM arrived") == [(0,)]
            ledger = server.ledger()
            assert journal.spent == charged(ledger)
        plans = [b["metadata"]["phi_jax_plan"] for b in batches_of(server)]
        assert len(set(plans)) == len(plans)
    return ledger, seen


def test_killed_at_each_phase(tmp_path):
    """The moments at which most is at stake; all of them: tests/acceptance/test_teacher_batch_kills.py."""
    moments = ["the batch is made, its name not recorded", "polling", "one part is booked, not one reply is read"]
    ledger, seen = killed_again_and_again(tmp_path, moments, count=30, size=10)
    assert times_asked(ledger) == {r.key: 1 for r in requests(30, Exercise)}
    states = {moment: (plans, arrived, made) for moment, plans, arrived, made in seen}
    plans, _, made = states["the batch is made, its name not recorded"]
    assert made == sum(file is not None for file, _ in plans) == 1
    assert plans[0][1] is None
    plans = states["polling"][0]
    assert any(name is not None for _, name in plans)
    assert states["one part is booked, not one reply is read"][1] > 0


def test_a_batch_that_came_in_while_it_was_looked_for_is_not_made_again(tmp_path, monkeypatch):
    """What a killed run asked for may reach the server between the first look and the file's end."""
    found, looked = Batches._find, set()

    async def late(self, plan):
        if plan not in looked:
            looked.add(plan)
            return await asyncio.sleep(0.5)  # the server has worked it off by then
        return await found(self, plan)

    monkeypatch.setattr(Batches, "_find", late)
    ledger, _ = killed_again_and_again(tmp_path, ["the batch is made, its name not recorded"], count=30, size=10)
    assert looked
    assert times_asked(ledger) == {r.key: 1 for r in requests(30, Exercise)}


def test_a_batch_whose_making_is_not_answered_is_found_and_not_made_again(tmp_path, monkeypatch):
    answered, broken = batch.call, []

    async def call(endpoint, sent, seconds):
        answer = await answered(endpoint, sent, seconds)
        if isinstance(answer, dict) and answer.get("input_file_id") and not broken:
            broken.append(answer["id"])
            return Failure("failed", "the connection broke", lost=True)
        return answer

    monkeypatch.setattr(batch, "call", call)
    with serving(batch_seconds=0.1) as server, Journal(tmp_path) as journal:
        ask(journal, endpoint(server.base_url, batch_requests=10), requests(20))
        assert (len(batches_of(server)), len(broken)) == (2, 1)
        assert times_asked(server.ledger()) == {r.key: 1 for r in requests(20)}
        assert journal.spent == charged(server.ledger())


# --- Caps, stopping, cancelling --------------------------------------------------------------------------------------


def test_the_cap_is_never_passed(tmp_path):
    asked = list(requests(16))
    with serving(seed=1, batch_expire=0.3, batch_errors=0.1, batch_seconds=0.02) as server:
        with Journal(tmp_path) as journal:
            cap = PRICE.reservation(asked[0], batch=True) * 3 // 2
            with pytest.raises(UserError, match=r"^the budget of \S+ is used up: .* raise config\.budget\.max_dollars"):
                ask(journal, endpoint(server.base_url, batch_requests=15), iter(asked), cap=cap)
            assert charged(server.ledger()) == journal.spent <= cap
            assert journal.reserved == 0
            before = sum(journal.find(r.key) is not None for r in asked)
            assert 1 <= before < 16
        with Journal(tmp_path) as journal:
            rest = [r for r in asked if journal.find(r.key) is None]
            assert len(ask(journal, endpoint(server.base_url), iter(rest))) == 16 - before
            assert charged(server.ledger()) == journal.spent


def test_stopped_and_gone_on_with(tmp_path):
    """What the server works on when a run stops is found by the next one, whatever order it asks in."""
    asked = list(requests(100))
    with serving(batch_seconds=0.3) as server:
        with Journal(tmp_path) as journal:
            replies = ask(
                journal,
                endpoint(server.base_url, batch_requests=30),
                iter(asked),
                stop=lambda: len(batches_of(server)) > 1,
            )
            assert len(replies) < 100
            assert journal.reserved > 0
        with Journal(tmp_path) as journal:
            assert journal.reserved > 0
            rest = [r for r in reversed(asked) if journal.find(r.key) is None]
            replies += ask(journal, endpoint(server.base_url), iter(rest))
            assert journal.reserved == 0
            assert journal.spent == charged(server.ledger())
        assert sorted(r.key for r in replies) == sorted(r.key for r in asked)
        assert times_asked(server.ledger()) == {r.key: 1 for r in asked}


def test_cancel_keeps_what_is_done_and_pays_for_no_more(tmp_path):
    asked = list(requests(120))
    with serving(batch_seconds=1.0) as server:
        to = endpoint(server.base_url)
        with Journal(tmp_path) as journal:
            ask(journal, to, iter(asked), stop=lambda: len(server.ledger()) > 20)
            assert cancel(journal, to) >= 1
            assert {b["status"] for b in batches_of(server)} <= {"cancelled", "completed"}
            assert journal.reserved == 0
            assert journal.spent == charged(server.ledger())
            done = len(server.ledger())
            assert 20 < done < 120
            assert cancel(journal, to) == 0
            assert len(ask(journal, to, iter(asked))) == 120
        assert times_asked(server.ledger()) == {r.key: 1 for r in asked}


# --- What the server says no to --------------------------------------------------------------------------------------


def test_the_limit_goes_by_the_name_that_the_server_knows(tmp_path):
    with serving(limit_name="max_completion_tokens", batch_seconds=0.02) as server:
        with Journal(tmp_path) as journal:
            replies = ask(journal, endpoint(server.base_url, batch_requests=20), requests(300))
            assert {r.status for r in replies} == {"answered"}
        assert len(batches_of(server)) == 8 + 15  # the name is learnt by the first round


def test_one_request_that_cannot_be_answered_is_poisoned(tmp_path):
    bad = Request("teacher", (("user", "too long " * 3000),), 400, 1.0, label="bad")
    with serving(context=2000, batch_seconds=0.02) as server, Journal(tmp_path) as journal:
        replies = ask(journal, endpoint(server.base_url), [*requests(10), bad])
        assert collections.Counter(r.status for r in replies) == {"answered": 10, "poisoned": 1}
        (outcome,) = journal.poisoned()
        assert outcome.key == bad.key
        assert re.match("HTTP 400: .*maximum context length", outcome.reason)
        assert outcome.cost == 0


def test_a_batch_that_is_declined_ends_the_run_where_no_other_is_open(tmp_path):
    with serving(batch_fail=1.0, batch_seconds=0.02) as server, Journal(tmp_path) as journal:
        with pytest.raises(UserError, match=r"batch batch_0+\d ended as failed .*Enqueued token limit .*mode=live"):
            ask(journal, endpoint(server.base_url, batch_requests=10), requests(40))
        assert {b["status"] for b in batches_of(server)} == {"failed"}
        assert (journal.spent, journal.reserved) == (0, 0)


def test_no_batch_api_and_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTED", "sk-planted-0123456789")
    with serving(refuse="key") as server, Journal(tmp_path) as journal:
        to = endpoint(server.base_url, key_variable="PLANTED")
        with pytest.raises(UserError, match=r"turns every request away .* check the API key in PLANTED") as raised:
            ask(journal, to, requests(3))
        assert "planted-0123456789" not in str(raised.value)
    with serving() as server, Journal(tmp_path) as journal:
        to = endpoint(server.base_url.replace("/v1", "/nothing"))
        with pytest.raises(
            UserError, match=r"the Batch API declines or gives no answer \(HTTP 404.*set config\.teachers\.writer\.mode"
        ):
            ask(journal, to, requests(3))
    for path in tmp_path.iterdir():
        assert b"planted-0123456789" not in path.read_bytes()


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    with serving() as server:
        pass
    refusal = r"the Batch API declines or gives no answer \(.*check config\.teachers\.writer\.base_url"
    with Journal(tmp_path) as journal, pytest.raises(UserError, match=refusal):
        ask(journal, endpoint(server.base_url), requests(3))
    with Journal(tmp_path) as journal, serving(batch_seconds=0.02) as server:
        ask(journal, endpoint(server.base_url), requests(3))
        assert journal.spent == charged(server.ledger())


# --- What a batch brings ---------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_booked_as_lost_and_asked_again(tmp_path, monkeypatch):
    """Every fourth line of the first file: what can be read of a line, test_teacher_server.py tells."""
    seen = []

    def read(text, *rest):
        seen.append(text)
        return read_line(b"" if len(seen) <= 16 and len(seen) % 4 == 0 else text, *rest)

    monkeypatch.setattr(batch, "read_line", read)
    asked = list(requests(16, start=10))
    with serving(batch_seconds=0.02) as server, Journal(tmp_path) as journal:
        replies = ask(journal, endpoint(server.base_url), iter(asked))
        assert {r.key for r in replies if r.status == "answered"} == {r.key for r in asked}
        ((lost, booked),) = journal.read("SELECT count(*), sum(cost) FROM attempts WHERE lost")
        assert lost == sum(times_asked(server.ledger()).values()) - 16 == 4
        assert booked == lost * PRICE.reservation(asked[0], batch=True)
        assert journal.spent > charged(server.ledger())
