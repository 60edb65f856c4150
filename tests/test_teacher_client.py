"""A teacher asked live, over a real server that errs: each request ends, nothing is paid twice or beyond the cap."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from llm_server import serving
from pydantic import BaseModel

from phi_jax.errors import Preempted, UserError
from phi_jax.teacher.asking import ask
from phi_jax.teacher.budget import Run
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Endpoint, load_prices
from phi_jax.teacher.request import PICODOLLARS, Reply, Request
from phi_jax.teacher.server.answers import Failure
from phi_jax.teacher.server.live import Live

KEY = "sk-planted-0123456789abcdef"
CAP = 10 * PICODOLLARS
PRICES = load_prices()


class Answer(BaseModel, extra="forbid"):
    answer: str


def endpoint(server, **changes):
    url = server if isinstance(server, str) else server.base_url
    fields = {
        "name": "writer", "model": "teacher", "base_url": url, "key_variable": "", "price": PRICES["gpt-4o-mini"],
        "mode": "live", "window": 20, "batch_requests": 100, "timeout": 30.0, "attempts": 6,
    }  # fmt: skip
    return Endpoint(**{**fields, **changes})


def questions(count, *, schema=None, model="teacher", start=0):
    return [
        Request(model, (("user", f"question {n}"),), 400, 1.0, schema=schema, label=f"test/{n}")
        for n in range(start, start + count)
    ]


def charged(server, teacher):
    """Picodollars by the server's ledger."""
    return sum(
        teacher.price.cost((e["prompt"], e["completion"], e.get("cached", 0)), batch=False) for e in server.ledger()
    )


def asked_for(server, requests):
    """How often the server was asked each of the questions."""
    about = [entry["about"] for entry in server.ledger()]
    return [about.count(request.messages[0][1]) for request in requests]


def bring(jobs, journal, cap=CAP):
    return ask(jobs, journal, cap=cap, label="test", total=sum(map(len, jobs.values())))


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path) as journal:
        yield journal


@pytest.fixture(scope="module")
def plain():
    with serving() as server:
        yield server


def test_each_question_is_asked_once_and_paid_once(plain, journal):
    teacher, requests = endpoint(plain), questions(60)
    before = charged(plain, teacher)
    tally = bring({teacher: requests + requests[:30]}, journal)
    assert tally.counts == {"answered": 60}
    assert tally.found == 30
    assert journal.spent == charged(plain, teacher) - before > 0
    again = bring({teacher: requests}, journal)
    assert (again.found, again.counts) == (60, {})
    assert asked_for(plain, requests) == [1] * 60
    reply = journal.find(requests[3].key)
    assert "'question 3'" in reply.text
    assert reply.prompt > 0 < reply.cost
    assert reply.attempts == 1


def test_one_bad_request_is_poisoned_and_the_others_are_answered(journal):
    with serving(context=500) as server:
        bad = Request("teacher", (("user", "too long " * 300),), 400, 1.0, label="test/bad")
        requests = [*questions(10), bad, *questions(10, start=10)]
        tally = bring({endpoint(server): requests}, journal)
        assert tally.counts == {"answered": 20, "poisoned": 1}
        (reply,) = journal.poisoned()
        assert reply.key == bad.key
        assert "maximum context length" in reply.reason
        assert "HTTP 400" in reply.reason
        assert (reply.cost, reply.attempts) == (0, 1)
        assert bring({endpoint(server): requests}, journal).found == 21


@pytest.mark.parametrize(("reason", "says"), [("key", "API key"), ("permission", "API key"), ("quota", "quota")])
def test_a_server_that_refuses_all_ends_the_run_and_poisons_nothing(reason, says, journal, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PLANTED_KEY", KEY)
    with serving(refuse=reason) as server, pytest.raises(UserError, match=says) as failed:
        bring({endpoint(server, key_variable="PLANTED_KEY"): questions(50)}, journal)
    assert server.base_url in str(failed.value)
    assert (journal.spent, journal.reserved, journal.poisoned()) == (0, 0, [])
    assert_unseen(journal, caplog, failed.value)


def assert_unseen(journal, caplog, *errors):
    """The planted key is in no file of the journal, no log and no exception, its causes included."""
    for error in errors:
        while error is not None:
            assert KEY not in str(error)
            error = error.__cause__ or error.__context__
    assert KEY not in caplog.text
    for path in Path(journal.path).parent.iterdir():
        assert KEY.encode() not in path.read_bytes()


def test_a_key_that_the_server_echoes_is_nowhere(journal, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PLANTED_KEY", KEY)
    with serving(faults=0.6, kinds=["echo"], key=KEY) as server:
        tally = bring({endpoint(server, key_variable="PLANTED_KEY", attempts=2): questions(30)}, journal)
    assert tally.counts["poisoned"] > 5
    assert all("request headers were" in reply.reason for reply in journal.poisoned())
    assert_unseen(journal, caplog)
    assert KEY not in "".join(capfd.readouterr())


def test_a_key_that_is_not_set_is_named(plain, journal, monkeypatch):
    monkeypatch.delenv("PLANTED_KEY", raising=False)
    with pytest.raises(UserError, match="PLANTED_KEY is not set"):
        bring({endpoint(plain, key_variable="PLANTED_KEY"): questions(1)}, journal)
    monkeypatch.setenv("PLANTED_KEY", KEY + "\u00e9")
    with pytest.raises(UserError, match="characters that no API key has") as failed:
        bring({endpoint(plain, key_variable="PLANTED_KEY"): questions(1)}, journal)
    assert KEY not in str(failed.value)


def test_a_server_that_is_not_there_costs_and_poisons_nothing(journal):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        teacher = endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", attempts=2)
        with pytest.raises(UserError, match=r"cannot be reached.*check config\.teachers\.writer"):
            bring({teacher: questions(40)}, journal)
    assert (journal.spent, journal.reserved, journal.poisoned()) == (0, 0, [])


def test_a_server_that_only_errs_costs_and_poisons_nothing(journal):
    with serving(faults=1.0, kinds=["500", "503"]) as server:
        for count in (100, 1):
            with pytest.raises(UserError, match=r"answers no request.*HTTP 50[03]"):
                bring({endpoint(server, attempts=1): questions(count)}, journal)
    assert (journal.spent, journal.reserved, journal.poisoned()) == (0, 0, [])


def test_what_hangs_is_lost_at_its_full_reservation(journal):
    with serving(faults=0.3, kinds=["hang"], seed=5) as server:
        teacher = endpoint(server, timeout=1.0, window=30, attempts=20)
        assert bring({teacher: questions(30)}, journal).counts == {"answered": 30}
        hung = sum(not entry["whole"] for entry in server.ledger())
        ((lost, cost, reserved),) = journal.read(
            "SELECT count(*), sum(cost), sum(reservation) FROM attempts WHERE lost"
        )
        assert lost >= hung > 5
        assert cost == reserved
        assert journal.reserved == 0
        assert journal.spent > charged(server, teacher)


def test_where_no_usage_is_reported_the_reservation_is_booked(journal, capfd):
    with serving(faults=1.0, kinds=["no_usage"]) as server:
        teacher, requests = endpoint(server), questions(5)
        assert bring({teacher: requests}, journal).counts == {"answered": 5}
    assert journal.spent == sum(teacher.price.reservation(r, batch=False) for r in requests)
    assert capfd.readouterr().err.count("the server reports no token usage") == 1


@pytest.mark.parametrize(
    ("mode", "options", "says"),
    [
        ("schema", {}, ""),
        ("text", {"structured": "none"}, ""),
        ("object", {"structured": "none", "shape": "llama_cpp"}, "'json_object' is not supported"),
        ("schema", {"structured": "none", "unsupported": "ignore"}, "does not hold replies to json_mode=schema"),
    ],
)
def test_json_is_asked_for_by_the_mode_else_in_the_prompt(mode, options, says, journal, capfd):
    with serving(**options) as server:
        teacher, requests = endpoint(server, json_mode=mode), questions(10, schema=Answer)
        assert bring({teacher: requests}, journal).counts == {"answered": 10}
        said = [line for line in capfd.readouterr().err.splitlines() if "JSON is asked for in the prompt" in line]
        assert len(said) == bool(says)
        assert says in "".join(said)
        assert journal.spent == charged(server, teacher) > 0
        if mode == "schema" and not says:
            assert sum(entry["completion"] > 0 for entry in server.ledger()) == 10
    for request in requests:
        assert f"'{request.messages[0][1]}" in Answer.model_validate_json(journal.find(request.key).text).answer


def test_one_reply_that_does_not_fit_changes_the_mode_only_where_none_has_fitted(plain, journal):
    def taken(*texts):
        live = Live(endpoint(plain, json_mode="schema"), Run(journal, CAP))
        for request, text in zip(questions(2, schema=Answer), texts, strict=False):
            outcome = live._take(request, ("answered", text, "", "teacher", (0, 0, 0)))
            assert isinstance(outcome, Reply) or live._again(request, outcome)
        return live._refused

    assert taken('{"answer": "four"}', "four") == set()
    assert taken("four") == {"response_format"}


def test_a_parameter_that_the_server_refuses_is_changed_and_that_is_said_once(journal, capfd):
    with serving(limit_name="max_completion_tokens", fixed_temperature=True) as server:
        teacher = endpoint(server, window=4)
        assert bring({teacher: questions(20)}, journal).counts == {"answered": 20}
        assert sum(entry.get("fault") == "invalid" for entry in server.ledger()) <= 8
    said = capfd.readouterr().err
    assert said.count("by the name max_completion_tokens from here on") == 1
    assert said.count("go without temperature from here on (HTTP 400: ") == 1


def test_one_prompt_that_is_forbidden_is_that_requests_outcome(journal):
    bad = Request("teacher", (("user", "question about weapons"),), 400, 1.0)
    with serving(forbid="weapons") as server:
        assert bring({endpoint(server): [*questions(10), bad]}, journal).counts["poisoned"] == 1
        assert "Your request was flagged" in journal.find(bad.key).reason
        assert journal.retry_given_up() == 1
        assert bring({endpoint(server): [bad]}, journal).counts == {"poisoned": 1}  # others were answered before


def test_replies_that_end_for_an_unknown_reason_are_paid_and_none_is_kept(journal):
    with serving(finish="tool_calls") as server:
        with pytest.raises(UserError, match=r"answers no request, .* unknown reason: finish_reason 'tool_calls'"):
            bring({endpoint(server, attempts=2): questions(3)}, journal)
        assert journal.spent == charged(server, endpoint(server)) > 0
    assert [journal.find(request.key) for request in questions(3)] == [None] * 3


@pytest.mark.parametrize("form", ["seconds", "none"])
def test_the_pace_finds_a_rate_limit(form, journal, capfd):
    with serving(requests_per_second=50, limit_headers=form) as server:
        teacher = endpoint(server, window=60, attempts=1)
        assert bring({teacher: questions(200)}, journal).counts == {"answered": 200}
        turned_away = sum(entry["completion"] == 0 for entry in server.ledger())
    assert 0 < turned_away < 400
    assert "waits" not in capfd.readouterr().err  # short waits are nobody's concern


def test_a_rate_limit_halves_the_pace_once_for_those_sent_together(plain, journal):
    live = Live(endpoint(plain), Run(journal, CAP))
    began = time.monotonic()
    for _ in range(3):
        live._slow_down(Failure("limited", "slow down"), began)
    assert live.limit == 10
    live._slow_down(Failure("limited", "slow down"), time.monotonic())
    assert live.limit == 5


def test_a_request_waits_for_what_those_in_flight_have_reserved(plain, tmp_path):
    """Twenty at once reserve more than the cap, of which they cost a part: all are answered."""
    teacher, requests = endpoint(plain), questions(60, start=7_000)
    with Journal(tmp_path / "large") as journal:
        bring({teacher: requests}, journal)
        cost = journal.spent
    reservation = teacher.price.reservation(requests[0], batch=False)
    cap = cost + 2 * reservation
    assert cap < 20 * reservation
    with Journal(tmp_path / "small") as journal:
        assert bring({teacher: requests}, journal, cap).counts == {"answered": 60}
        assert journal.spent == cost


def test_the_cap_ends_the_run_and_more_money_goes_on_with_it(journal):
    with serving() as server:
        teacher, requests = endpoint(server, window=1), questions(60)
        cap = 3 * teacher.price.reservation(requests[0], batch=False)
        with pytest.raises(UserError, match=r"config\.budget\.max_dollars"):
            bring({teacher: requests}, journal, cap)
        assert 0 < charged(server, teacher) == journal.spent <= cap
        answered = len(server.ledger())
        assert 10 < answered < 60  # replies cost less than their reservations, and what is left of these is used
        assert bring({teacher: requests}, journal).counts == {"answered": 60 - answered}
        assert asked_for(server, requests) == [1] * 60


@contextlib.contextmanager
def signals_once(ready, *numbers):
    """Sends these to this process, one by one, once `ready()` holds."""

    def send():
        end = time.monotonic() + 60
        while not ready() and time.monotonic() < end:
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_ctrl_c_awaits_what_is_in_flight(journal):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with serving(latency=0.2) as server:
        teacher, requests = endpoint(server), questions(2000)
        with signals_once(lambda: len(server.ledger()) > 20, signal.SIGINT), pytest.raises(KeyboardInterrupt):
            bring({teacher: requests}, journal)
        assert 20 < len(server.ledger()) < 2000
        assert journal.spent == charged(server, teacher)  # nothing lost
        assert journal.reserved == 0
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_second_signal_awaits_nothing_and_books_what_was_sent(journal):
    with serving(faults=1.0, kinds=["hang"]) as server:
        teacher = endpoint(server, timeout=300.0)
        ready = lambda: len(server.ledger()) >= 20  # noqa: E731
        with signals_once(ready, signal.SIGTERM, signal.SIGTERM), pytest.raises(Preempted):
            bring({teacher: questions(100)}, journal)
        assert journal.reserved == 0
        assert journal.spent >= charged(server, teacher) > 0
        assert len(server.ledger()) == 20


def test_an_error_of_whoever_gives_the_requests_keeps_what_arrived(plain, journal):
    requests = questions(5, start=500)

    def broken():
        yield from requests
        raise UserError("these requests are broken")

    with pytest.raises(UserError, match="these requests are broken"):
        ask({endpoint(plain): broken()}, journal, cap=CAP, label="test", total=9)
    assert journal.reserved == 0
