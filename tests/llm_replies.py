"""Replies that no server should give, made by a seed from good ones; and a run of the teacher against them.

The server stands in this process, behind the real client: the openai package, the journal and the budget are those of
every run. test_teacher_replies.py runs 200 of these, acceptance/test_fuzz_replies.py 10,000.
"""

import asyncio
import contextlib
import copy
import json
import random
import re
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import httpx2
import openai
from llm_faults import REFUSALS, error, reply_of
from pydantic import BaseModel

from phi_jax.errors import UserError
from phi_jax.teacher import asking
from phi_jax.teacher.budget import Run
from phi_jax.teacher.journal import FILE, Journal
from phi_jax.teacher.prices import Endpoint, Price
from phi_jax.teacher.request import STATUSES, Request
from phi_jax.teacher.server import answers, batch, live

PRICE = Price(input=3, cached_input=1, output=7, batch_percent=50)
USAGE = {"prompt": 20, "completion": 10, "cached": 5, "reasoning": 3}
CAP = 10**18
DEPTHS = (50, 900, 3000, 100_000)


class Answer(BaseModel, extra="forbid"):
    answer: str


# --- What is wrong with a reply --------------------------------------------------------------------------------------


def strange(rng):
    """A value of any type, also such as JSON has not."""
    return rng.choice(
        (None, True, False, 0, -1, 1.5, 10**30, 2**63, -(2**63), 10**8 - 1, float("nan"), float("inf"), "", "stop",
         "\ud800", "x" * 5000, "\0\r\n", [], {}, [[]], {"a": None}, [None] * 3, {"error": {"code": 429}}, ["text"])
    )  # fmt: skip


def places(value, path=()):
    """Each path to a value within `value`, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def changed(value, rng):
    """With one to three parts replaced, taken out, wrapped or exchanged, at any depth."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(places(value)))
        if not path:
            value = rng.choice((strange(rng), [value], {"data": value})) if rng.random() < 0.3 else value
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        how = rng.choice(("replace", "replace", "replace", "remove", "wrap", "text"))
        if how == "remove":
            del holder[path[-1]]
        else:
            part = holder[path[-1]]
            holder[path[-1]] = {"replace": strange(rng), "wrap": [part], "text": json.dumps(part)}[how]
    return value


def written(value, rng):
    """The bytes of `value` as JSON, perhaps damaged."""
    data = json.dumps(value).encode()
    how = rng.choice(("", "", "", "cut", "flip", "insert", "twice", "deep", "digits", "nothing", "page"))
    if how == "cut":
        data = data[: rng.randrange(len(data) + 1)]
    elif how == "flip":
        data = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "insert":
        place = rng.randrange(len(data) + 1)
        data = data[:place] + rng.randbytes(rng.randint(1, 9)) + data[place:]
    elif how == "twice":
        data += data
    elif how in ("deep", "digits"):  # in the place of a number, null or text
        depth = rng.choice(DEPTHS)
        part = "9" * depth if how == "digits" else "[" * depth + "]" * depth
        found = list(re.finditer(rb'(?<=: )(?:null|\d+|"[^"]*")', data))
        if found:
            start, end = rng.choice(found).span()
            data = data[:start] + part.encode() + data[end:]
    elif how == "nothing":
        data = rng.choice((b"", b"null", b"[]", b"{}", b'""', b"\xff\xfe", b"NaN", b"-" * 9))
    elif how == "page":
        data = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    return bytes(data)


RETRIES = ("0", "-1", "nan", "inf", "1e400", "soon", "", "9" * 400, "Wed, 21 Oct 2155 07:28:00 GMT", "\xff",
           "Wed, 21 Oct 99999999999 07:28:00 GMT", "Mon, 00 Jan 0000 00:00:00 -9999", "0x10", "1_0")  # fmt: skip


def response(value, rng):
    """An HTTP response with `value`, wrong in one way or several; or an error of the connection."""
    headers = {"content-type": "application/json"}
    status, kind = 200, rng.random()
    if kind < 0.25:
        status = rng.choice((400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 425, 429, 429, 429, 500, 503, 529, 599))
        said = ("x", "Request too large for m", "the model is away", "'temperature' is not supported", "system role")
        _, refusal = rng.choice(list(REFUSALS.values()))
        value = rng.choice((value, refusal, error(rng.choice(said)), {"detail": [{"loc": ["body", "seed"]}]}))
    elif kind < 0.35:
        status = rng.choice((201, 202, 204, 206, 299, 301, 302, 304, 307, 399, 444, 499, 600, 799))
    elif kind < 0.4:
        code = rng.choice((400, 401, 429, 500, 502, "429", None, -1, 10**20, 402.0))
        value = rng.choice(({"error": {"message": "no", "code": code}}, {"error": "no"}, {"object": "error"}))
    elif kind < 0.45:
        raise rng.choice((httpx2.ReadError, httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.WriteError))("gone")
    if rng.random() < 0.6:
        value = changed(value, rng)
    if rng.random() < 0.4:
        headers["retry-after"] = rng.choice(RETRIES)
    if rng.random() < 0.15:
        headers["content-type"] = rng.choice(
            ("text/html", "text/plain", "", "application/json; charset=utf-99", "json")
        )
    if rng.random() < 0.05:
        headers["content-encoding"] = rng.choice(("gzip", "deflate", "br", "odd"))
    if rng.random() < 0.05 or 300 < status < 400:
        headers["location"] = rng.choice(("/v1/elsewhere", "http://[", "ftp://x", "", "//", "http://127.0.0.1:1"))
    raw = [(name.encode(), text.encode("latin-1")) for name, text in headers.items()]
    data = value if isinstance(value, bytes) else written(value, rng)
    return httpx2.Response(status, headers=raw, content=b"" if status in (204, 304) else data)


# --- The server ------------------------------------------------------------------------------------------------------


class Stub:
    """Answers chat completions and the Batch API. Its replies to `wrong` paths are strange, as often as `times` says.

    charged: picodollars of the good answers that it gave.
    """

    def __init__(self, rng, wrong, times):
        self.rng, self.wrong, self.times = rng, wrong, times
        self.files, self.batches, self.charged, self.struck = {}, {}, 0, 0

    def __call__(self, request):
        path = re.sub(r"(?<=/)(file|batch)[-_]\w+", r"\1", request.url.path.removeprefix("/v1"))
        place = f"{request.method} {path}"
        value, cost = self._good(place, request)
        if place == self.wrong and self.struck < self.times:
            self.struck += 1
            return response(self._lines(value) if isinstance(value, bytes) else value, self.rng)
        self.charged += cost
        if isinstance(value, bytes):
            return httpx2.Response(200, content=value)
        return httpx2.Response(404 if value is None else 200, json=value or error("There is no such thing."))

    def _lines(self, data):
        """A batch's output with some of its lines strange."""
        lines = []
        for line in data.splitlines():
            value = json.loads(line)
            if self.rng.random() < 0.3:
                value["response"]["status_code"] = strange(self.rng)
            lines.append(written(changed(value, self.rng), self.rng) if self.rng.random() < 0.7 else line)
        return b"\n".join(lines + lines[: self.rng.randrange(2)])

    def _good(self, place, request):
        """(what a server answers, picodollars that it charges for it)"""
        name = request.url.path.split("/")[3:4]
        if place == "POST /chat/completions":
            return _answer(json.loads(request.read())), PRICE.cost((20, 10, 5), batch=False)
        if place == "POST /files":
            name = f"file-{len(self.files)}"
            self.files[name] = [json.loads(line) for line in request.read().splitlines() if line.startswith(b"{")]
            return {"id": name, "object": "file", "status": "processed", "purpose": "batch"}, 0
        if place == "POST /batches":
            asked = json.loads(request.read())
            batch_id = f"batch_{len(self.batches)}"
            count = len(self.files.get(asked["input_file_id"], ()))
            self.batches[batch_id] = {
                "id": batch_id, "object": "batch", "status": "completed", "metadata": asked["metadata"],
                "output_file_id": asked["input_file_id"], "error_file_id": None, "errors": None,
                "request_counts": {"total": count, "completed": count, "failed": 0},
            }  # fmt: skip
            return self.batches[batch_id], 0
        if place == "GET /batches":
            return {"object": "list", "data": list(self.batches.values()), "has_more": False}, 0
        if place == "GET /batches/batch":
            return self.batches.get(*name), 0
        if place == "GET /files/file/content" and name[0] in self.files:
            asked = self.files[name[0]]
            lines = [
                {"custom_id": line["custom_id"], "error": None,
                 "response": {"status_code": 200, "body": _answer(line["body"])}}
                for line in asked
            ]  # fmt: skip
            return b"".join(json.dumps(line).encode() + b"\n" for line in lines), 0
        return (None if request.method == "GET" else {"id": "x", "deleted": True}), 0


def _answer(body):
    text = json.dumps({"answer": "four"}) if "JSON" in json.dumps(body) or "response_format" in body else "four"
    return reply_of("openai", 1, "m-1", text, "stop", USAGE)


LIVE = ("POST /chat/completions",)
BATCH = (
    "POST /files", "POST /batches", "GET /batches/batch", "GET /batches/batch", "GET /files/file/content",
    "GET /files/file/content", "GET /batches",
)  # fmt: skip


# --- A case ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_no_time(stub):
    """The teacher asks `stub`, and waits for nothing."""
    made = []

    def open_client(endpoint):
        http = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(stub[0]))
        made.append(http)
        return openai.AsyncOpenAI(api_key="none", base_url=endpoint.base_url, max_retries=0, http_client=http)

    async def sleep(run, seconds):
        assert 0 <= seconds < 10**4
        await asyncio.sleep(0)
        run.check()

    def at_once(function):
        """In place of a thread that finds out the platform, for each client anew."""

        async def called():
            return function()

        return called

    patches = [
        mock.patch("openai._base_client.asyncify", at_once),
        mock.patch.object(live, "open_client", open_client), mock.patch.object(Run, "sleep", sleep),
        mock.patch.object(answers, "LONGEST_WAIT", 0.0), mock.patch.object(live, "_WHOLE", 3),
        mock.patch.object(batch, "_TRIES", 1), mock.patch("openai._base_client.MAX_RETRY_DELAY", 0.0),
        mock.patch("openai._base_client.MAX_RETRY_AFTER_DELAY", 0.0),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def run_case(number, journal, stub):
    """One run against a strange server, and one against a good server. Returns what came of it, in a word.

    stub: a list that holds the server, see in_no_time. Asserts that each request ends in an answer, an outcome with a
    reason or one line; that what the server charged is booked; and that the good server is paid for what is left.
    """
    rng = random.Random(f"replies {number}")
    mode = rng.choice(("live", "live", "batch"))
    wrong = rng.choice(LIVE if mode == "live" else BATCH)
    endpoint = Endpoint(
        name="writer", model="m", base_url="http://stub/v1", key_variable="", price=PRICE, mode=mode, window=2,
        batch_requests=5, timeout=5.0, attempts=2, json_mode=rng.choice(("schema", "object", "text")),
    )  # fmt: skip
    requests = [
        Request("m", (("system", "Be brief."), ("user", f"case {number}, question {n}")), 50, rng.choice((0.0, 1.0)),
                schema=Answer if n == 1 else None, label=f"{number}/{n}")
        for n in range(2)
    ]  # fmt: skip
    stub[0] = Stub(rng, wrong, rng.choice((1, 2, 10**6)))
    outcome = _ask(endpoint, requests, journal, stub[0])
    if mode == "live":
        assert journal.reserved == 0
    if outcome == "stopped":
        stub[0].times = 0
        assert _ask(endpoint, requests, journal, stub[0]) != "stopped", "a good server answers what is left"
    assert journal.reserved == 0
    return f"{mode} {outcome}"


def _ask(endpoint, requests, journal, stub):
    spent, charged = journal.spent, stub.charged
    outcome, said = "answered", "-"
    try:
        asking.ask({endpoint: requests}, journal, cap=CAP, label="case", total=len(requests))
    except UserError as failed:
        outcome, said = "stopped", str(failed)
    assert len(said.splitlines()) == 1
    for reply in filter(None, (journal.find(request.key) for request in requests)):
        assert reply.status in STATUSES
        assert (reply.status == "answered") == bool(reply.text and not reply.reason)
        assert reply.status == "answered" or reply.reason
        assert min(reply.prompt, reply.completion, reply.cached, reply.cost, reply.attempts) >= 0
        assert "\n" not in reply.reason
        outcome = outcome if outcome == "stopped" or reply.status == "answered" else "given up"
    if outcome != "stopped":
        assert all(journal.find(request.key) for request in requests)
    assert isinstance(journal.spent, int)
    assert journal.spent - spent >= stub.charged - charged
    sums = "SELECT coalesce(sum(cost), 0), coalesce(sum(iif(cost IS NULL, reservation, 0)), 0) FROM attempts"
    assert journal.read(sums) == [(journal.spent, journal.reserved)]
    return outcome


def run_cases(numbers):
    """Runs these cases in one journal; returns how many came out how."""
    counts, stub = Counter(), [None]
    with tempfile.TemporaryDirectory() as directory, Journal(directory) as journal, in_no_time(stub):
        journal.read("PRAGMA synchronous = OFF")
        for number in numbers:
            try:
                counts[run_case(number, journal, stub)] += 1
            except Exception as failed:
                raise AssertionError(f"case {number}: {type(failed).__name__}: {failed}") from failed
    return counts


# --- Journals --------------------------------------------------------------------------------------------------------


def damaged_journals(numbers):
    """Opens journals that are cut or overwritten, and asks through them; returns how many came out how."""
    counts, stub = Counter(), [None]
    endpoint = Endpoint(
        name="writer", model="m", base_url="http://stub/v1", key_variable="", price=PRICE, mode="live", window=2,
        batch_requests=5, timeout=5.0, attempts=2,
    )  # fmt: skip
    requests = [Request("m", (("user", f"question {n}"),), 50, 1.0) for n in range(40)]
    with tempfile.TemporaryDirectory() as directory, in_no_time(stub):
        with Journal(directory) as journal:
            stub[0] = Stub(random.Random(0), "", 0)
            asking.ask({endpoint: requests[:35]}, journal, cap=CAP, label="case", total=35)
            spent = journal.spent
        good = Path(directory, FILE).read_bytes()
        for number in numbers:
            rng = random.Random(f"journals {number}")
            data = bytearray(good)
            how = rng.choice(("cut", "cut", "flip", "zero", "swap", "strange"))
            if how == "cut":
                del data[rng.randrange(len(data)) :]
            elif how == "flip":
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            elif how == "zero":
                start = rng.randrange(len(data))
                data[start : start + 4096] = bytes(len(data[start : start + 4096]))
            elif how == "swap":
                data = data[:4096] + data[8192:12288] + data[4096:8192] + data[12288:]
            place = Path(directory, str(number))
            place.mkdir()
            (place / FILE).write_bytes(data)
            if how == "strange":
                _rewrite(place / FILE, rng)
            stub[0] = Stub(rng, "", 0)
            try:
                with Journal(place) as journal:
                    assert isinstance(journal.spent, int)
                    assert journal.spent >= 0 == journal.reserved
                    asking.ask({endpoint: requests}, journal, cap=CAP, label="case", total=40)
                    counts[f"{how}: opened"] += 1
                    assert how != "cut" or journal.spent > spent, f"journal {number}: paid replies are lost in silence"
            except UserError as failed:
                counts[f"{how}: refused"] += len(str(failed).splitlines()) == 1
            except Exception as failed:
                raise AssertionError(f"journal {number}, {how}: {type(failed).__name__}: {failed}") from failed
    return counts


def _rewrite(path, rng):
    """Puts a strange value into a column, as another program may have."""
    table, column = rng.choice(
        (("attempts", "cost"), ("attempts", "reservation"), ("attempts", "prompt"), ("replies", "cost"),
         ("replies", "status"), ("replies", "text"), ("replies", "prompt"))
    )  # fmt: skip
    value = rng.choice(("x", b"\xff", -5, 1.5, float("inf"), 2**62, ""))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid < 9", (value,))
