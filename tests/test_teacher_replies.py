"""What no server should say, and what servers say in their own way: each reply ends in an answer, a reason or one line.

10,000 of the strange replies and 2,000 damaged journals: acceptance/test_fuzz_replies.py.
"""

import contextlib
import json
import random
import socket
import threading
from collections import Counter

import llm_replies
import pytest
from llm_faults import reply_of
from pydantic import BaseModel

from phi_jax.errors import UserError
from phi_jax.evaluation import completion
from phi_jax.evaluation.backends.chat_server import Server, ServerBackend
from phi_jax.teacher.asking import ask
from phi_jax.teacher.budget import Run
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Endpoint
from phi_jax.teacher.request import Request
from phi_jax.teacher.server.answers import Failure
from phi_jax.teacher.server.live import Live


class Answer(BaseModel, extra="forbid"):
    answer: str


def endpoint(base_url="http://stub/v1", **changes):
    fields = {"name": "writer", "model": "m", "base_url": base_url, "key_variable": "", "price": llm_replies.PRICE,
              "mode": "live", "window": 1, "batch_requests": 5, "timeout": 2.0, "attempts": 4}  # fmt: skip
    return Endpoint(**{**fields, **changes})


def request(number=0, temperature=1.0, schema=None):
    messages = (("system", "Be brief."), ("user", f"question {number}"))
    return Request("m", messages, 50, temperature, schema=schema, label="x")


def good(text="four", finish="stop"):
    return reply_of("openai", 1, "m-1", text, finish, llm_replies.USAGE)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path) as journal:
        yield journal


@contextlib.contextmanager
def scripted(server):
    """All is asked of `server`, a function of a call's number and body; gives the bodies so far."""
    bodies = []

    class Scripted(llm_replies.Stub):
        def _good(self, place, request):
            bodies.append(json.loads(request.read()))
            return server(len(bodies), bodies[-1]), 0

    with llm_replies.in_no_time([Scripted(random.Random(0), "", 0)]):
        yield bodies


def bring(journal, server, *requests, **fields):
    """(what became of the requests, the bodies that were sent)"""
    with scripted(server) as bodies:
        ask({endpoint(**fields): requests}, journal, cap=llm_replies.CAP, label="test", total=len(requests))
    return [journal.find(request.key) for request in requests], bodies


# --- By chance -------------------------------------------------------------------------------------------------------


def test_strange_replies_end_in_an_answer_a_reason_or_a_line():
    counts = llm_replies.run_cases(range(200))
    assert counts.total() == 200
    assert min(counts[f"{mode} {end}"] for mode in ("live", "batch") for end in ("answered", "stopped")) > 5


def test_a_damaged_journal_is_refused_or_loses_no_money_in_silence():
    counts = llm_replies.damaged_journals(range(20))
    assert counts.total() == 20
    assert any("refused" in end for end in counts)


HTTP = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "disconnected|no whole reply"),  # the second where the server had not read all: a reset
        (b"\x16\x03\x01 what is this\r\n\r\n", "no whole reply"),
        (b"HTTP/1.1 999 \xff\r\n\r\n", "HTTP 999|no whole reply"),
        (HTTP + b"content-length: 9999\r\n\r\n{", "no whole reply"),
        (HTTP + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "no whole reply"),
        (HTTP + b"content-length: -5\r\n\r\n{}", "no whole reply"),
        (HTTP + b"x: " + b"y" * 200_000, "no whole reply"),
        (HTTP + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", "no whole reply"),
        (None, "no whole reply within 2 s"),  # a byte now and then, without end
    ],
)
def test_what_is_no_http_is_one_line(data, says, journal):
    """Over a real connection."""
    with (
        serving_bytes(data) as base_url,
        pytest.raises(UserError, match=rf"answers no request.*(?:{says})") as failed,
    ):
        ask({endpoint(base_url, attempts=1): [request()]}, journal, cap=llm_replies.CAP, label="test", total=1)
    assert "\n" not in str(failed.value)
    assert journal.reserved == 0
    assert journal.spent == llm_replies.PRICE.reservation(request(), batch=False) or "HTTP 999" in str(failed.value)


@contextlib.contextmanager
def serving_bytes(data):
    """A socket that answers every connection with these bytes; None: with a reply that does not end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    with connection, contextlib.suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(HTTP + b"content-length: 9999999\r\n\r\n" if data is None else data)
                        while data is None and not done.wait(0.1):
                            connection.sendall(b" ")

        done, thread = threading.Event(), threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        done.set()
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


# --- Which replies are answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "finish",
    ["tool_calls", "function_call", "abort", "error", "insufficient_system_resource", "eos", "", None, ["stop"]],
)
def test_only_a_finish_that_is_known_to_be_good_makes_an_answer(finish, journal):
    """After one that is answered, it is the request's outcome; with temperature 0, after one attempt."""
    replies, bodies = bring(
        journal, lambda n, body: good() if n == 1 else good("half a sen", finish), request(1), request(2, 0.0)
    )
    assert [reply.status for reply in replies] == ["answered", "poisoned"]
    assert (replies[1].text, len(bodies)) == ("", 2)
    assert "unknown reason" in replies[1].reason


def test_a_cut_or_empty_reply_is_no_answer_and_a_cut_one_is_not_asked_for_again(journal):
    said = {1: good(), 2: good("half", "length"), 3: good("half", "model_length"), 4: good("half", "max_tokens")}
    replies, bodies = bring(journal, lambda n, body: said.get(n, good(None)), *map(request, range(5)))
    assert [reply.status for reply in replies] == ["answered", "length", "length", "length", "poisoned"]
    assert replies[4].reason == "the reply is empty"
    assert (len(bodies), replies[4].attempts) == (8, 4)


# --- How servers want to be asked ------------------------------------------------------------------------------------

REFUSED = {
    "temperature": "Unsupported value: 'temperature' does not support 0.0 with this model. Only 1 is supported.",
    "seed": "Unrecognized request argument supplied: seed",
    "response_format": "`response_format` is not supported by this model",
    "system": "System role not supported",
    "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
}


def test_a_server_that_refuses_much_is_asked_in_its_own_form(journal, capfd):
    """Each parameter, and the system message, is refused by name one after the other; then all is answered."""

    def server(number, body):
        there = {*body, *(message["role"] for message in body["messages"])}
        for name, said in REFUSED.items():
            if name in there:
                return {"error": {"message": said, "code": 400}}
        return good('{"answer": "four"}')

    replies, bodies = bring(journal, server, request(0, 0.0, Answer), request(1, 0.0, Answer), attempts=1)
    assert [reply.status for reply in replies] == ["answered"] * 2
    assert len(bodies) == len(REFUSED) + 2
    assert [message["role"] for message in bodies[-1]["messages"]] == ["user"]
    assert bodies[-1]["messages"][0]["content"].startswith("Be brief.\n\nquestion 1\n\nAnswer with one JSON object")
    assert capfd.readouterr().err.count("from here on") == len(REFUSED)


def test_all_requests_refused_alike_is_an_error_however_few(journal):
    for count in (1, 3):
        with pytest.raises(UserError, match=r"answers no request.* HTTP 422: .*no such thing"):
            bring(
                journal,
                lambda n, body: {"error": {"message": "no such thing", "code": 422}},
                *map(request, range(count)),
            )
    assert journal.poisoned() == []


# --- Whose fate it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 403, 404, 413, 422, 429])
def test_one_request_that_is_refused_is_given_up_and_the_others_are_answered(code, journal):
    """429: it is turned away for ever, though the others are let in."""
    bad = lambda body: "question 1" in body["messages"][1]["content"]  # noqa: E731
    refusal = {"error": {"message": f"not this one ({code})", "code": code}}
    replies, _ = bring(journal, lambda n, body: refusal if bad(body) else good(), *map(request, range(3)), window=3)
    assert [reply.status for reply in replies] == ["answered", "poisoned", "answered"]
    assert f"not this one ({code})" in replies[1].reason


def test_requests_that_are_given_up_last_do_not_end_the_next_run(journal):
    """Only those that are empty are left by a kill; the others were answered before."""
    bring(journal, lambda n, body: good(), request(1))
    replies, _ = bring(journal, lambda n, body: good(""), request(2))
    assert replies[0].status == "poisoned"


# --- What is said and paid -------------------------------------------------------------------------------------------


def test_an_error_in_the_body_is_shown_and_costs_one_attempt_where_its_code_says_so(journal):
    said = {"error": {"message": "The provider has no such image", "code": 400}}
    with pytest.raises(UserError, match="The provider has no such image"):
        bring(journal, lambda n, body: said, request())
    assert journal.read("SELECT count(*), sum(lost) FROM attempts") == [(1, 1)]
    choice = {**good("half", "error")["choices"][0], "error": {"message": "The provider is gone", "code": 502}}
    with pytest.raises(UserError, match=r"finish_reason 'error': .*The provider is gone"):
        bring(journal, lambda n, body: {**good(), "choices": [choice]}, request(1))


@pytest.mark.parametrize(("temperature", "asked"), [(0.0, 1), (1.0, 4)])
def test_a_reply_that_does_not_fit_is_not_paid_twice_where_the_next_would_be_the_same(temperature, asked, journal):
    bodies = []
    replies, bodies = bring(journal, lambda n, body: good("no JSON"), request(0, temperature, Answer), json_mode="text")
    assert (replies[0].status, len(bodies), replies[0].attempts) == ("poisoned", asked, asked)
    assert replies[0].reason == "the reply does not fit the schema: there is no JSON object in it"


def test_at_temperature_0_another_form_is_tried_before_a_reply_is_given_up(journal):
    replies, bodies = bring(journal, lambda n, body: good("no JSON"), request(0, 0.0, Answer), request(1, 0.0, Answer))
    assert ["response_format" in body for body in bodies] == [True, False, False]  # none is sent twice as it was
    assert [reply.status for reply in replies] == ["poisoned"] * 2


def test_a_request_that_is_turned_away_counts_as_a_hundredth_of_an_attempt(journal):
    live = Live(endpoint(), Run(journal, llm_replies.CAP))
    seen = Counter(live._again(request(), Failure("limited", "slow down")) for _ in range(400))
    assert seen == {True: 399, False: 1}


def test_an_evaluation_says_how_many_completions_are_empty_as_no_answer_came(tmp_path, capfd):
    def server(number, body):
        return {"error": {"message": "Flagged.", "code": 403}} if "def g" in str(body) else good("```\nreturn 1\n```")

    asked = [completion.Request(name, 0, completion.GREEDY, f"def {name}():\n", "fence") for name in "fgh"]
    plan = completion.Plan(prompt_form="chat", top_p=1.0)
    backend = ServerBackend(Server("http://stub/v1", "m", 1.0), plan, str(tmp_path))
    with scripted(server):
        made = dict(backend.complete(asked, "evaluate"))
    assert [(made[i].text == "", made[i].stop_reason) for i in range(3)] == [
        (False, "end_of_text"), (True, "poisoned"), (False, "end_of_text"),
    ]  # fmt: skip
    assert "1 of 3 completions are empty, as no answer came: HTTP 403: " in capfd.readouterr().err
