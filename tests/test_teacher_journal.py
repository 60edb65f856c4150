"""The journal: money in any interleaving, durability under SIGKILL, one holder, damage named."""

import asyncio
import collections
import dataclasses
import gc
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import ROOT

from phi_jax.errors import UserError
from phi_jax.teacher.journal import FILE, CapReached, Journal
from phi_jax.teacher.request import Reply, Request, Status, Usage


def request(name="a", model="m"):
    return Request(model, (("user", name),), 100, 0.5, label=f"label of {name}")


def reply(key, status=Status.ANSWERED, text="yes", cost=0):
    return Reply(key, status, text, "" if status is Status.ANSWERED else "why", "m-2026", Usage(3, 2, 1, 0), cost, 1)


# --- Money -----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abcd")
WHICH = st.integers(0, 7)  # of the attempts so far
CHANGES = st.one_of(
    st.tuples(st.just("begin"), NAMES, st.integers(0, 50), st.integers(0, 200), st.sampled_from(["live", "batch/1"])),
    st.tuples(st.just("settle"), WHICH, st.integers(0, 60), st.sampled_from([None, *Status])),
    st.tuples(st.just("lose"), WHICH, st.sampled_from([None, Status.POISONED])),
    st.tuples(st.just("poison"), NAMES),
)
STEPS = st.lists(
    st.one_of(st.lists(CHANGES, min_size=1, max_size=8), st.sampled_from(["reopen", "forgive"])), max_size=12
)


class Books:
    """What the journal should hold, by the plainest bookkeeping."""

    def __init__(self):
        self.attempts = []  # [key, reservation, cost or None, via]
        self.replies = {}

    def spent(self):
        return sum(cost for _, _, cost, _ in self.attempts if cost is not None)

    def reserved(self):
        return sum(reservation for _, reservation, cost, _ in self.attempts if cost is None)

    def put(self, key, status):
        if key not in self.replies or self.replies[key] is Status.POISONED:
            self.replies[key] = status

    async def apply(self, journal, change):
        """Does the same in the journal; the order of calls is the order of the coroutines' first steps."""
        kind, what, *rest = change
        if kind == "begin":
            amount, cap, via = rest
            fits = amount == 0 or self.spent() + self.reserved() + amount <= cap
            if fits:
                self.attempts.append([request(what).key, amount, None, via])
            number = len(self.attempts)
            try:
                assert await journal.begin(request(what), amount, cap=cap, via=via) == number
                assert fits
            except CapReached:
                assert not fits
        elif kind == "poison":
            self.put(request(what).key, Status.POISONED)
            await journal.poison(reply(request(what).key, Status.POISONED))
        else:
            isopen = what < len(self.attempts) and self.attempts[what][2] is None
            key, status = (self.attempts[what][0] if isopen else "nothing"), rest[-1]
            outcome = None if status is None else reply(key, status)
            if isopen:
                self.attempts[what][2] = rest[0] if kind == "settle" else self.attempts[what][1]
                if status is not None:
                    self.put(key, status)
            try:
                if kind == "settle":
                    await journal.settle(what + 1, cost=rest[0], reply=outcome)
                else:
                    await journal.lose(what + 1, "cut off", reply=outcome)
                assert isopen
            except ValueError:
                assert not isopen

    def check(self, journal):
        assert (journal.spent, journal.reserved) == (self.spent(), self.reserved())
        keys = [request(name).key for name in "abcd"]
        assert journal.has(keys) == set(self.replies)
        ended = collections.Counter(key for key, _, cost, _ in self.attempts if cost is not None)
        for key in keys:
            found = journal.find(key)
            assert (found and found.status) == self.replies.get(key)
            count, _, cost = journal.history(key)
            assert count == ended[key]
            assert cost == sum(c for k, _, c, _ in self.attempts if k == key and c is not None)
        poisoned = {key for key, status in self.replies.items() if status is Status.POISONED}
        assert [r.key for _, r in journal.poisoned()] == sorted(poisoned)


@given(STEPS)
@example([[("begin", "a", 50, 100, "live"), ("begin", "b", 50, 100, "live"), ("begin", "c", 0, 100, "live"),
           ("begin", "d", 1, 100, "live")], "reopen", [("settle", 0, 5, None)]])  # fmt: skip
@settings(max_examples=40)
def test_money_in_any_interleaving(steps):
    """Changes of one group run at once; reopening is what a kill leaves: live attempts are lost, others stay open."""

    async def group(journal, books, changes):
        await asyncio.gather(*(books.apply(journal, change) for change in changes))

    books = Books()
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(directory)
        try:
            for step in steps:
                if step == "reopen":
                    journal.close()
                    journal = Journal(directory)
                    for attempt in books.attempts:
                        if attempt[2] is None and attempt[3] == "live":
                            attempt[2] = attempt[1]
                elif step == "forgive":
                    kept = {k: s for k, s in books.replies.items() if s is not Status.POISONED}
                    assert journal.forgive() == len(books.replies) - len(kept)
                    books.replies = kept
                else:
                    asyncio.run(group(journal, books, step))
                books.check(journal)
        finally:
            journal.close()


@pytest.fixture(scope="module")
def one_journal(tmp_path_factory):
    with Journal(tmp_path_factory.mktemp("journal")) as journal:
        yield journal


USAGES = st.builds(Usage, *[st.integers(0, 2**40)] * 4)
REPLIES = st.builds(
    Reply, key=st.text(), status=st.sampled_from(Status), text=st.text(), reason=st.text(), model=st.text(),
    usage=USAGES, cost=st.integers(0, 2**62), attempts=st.integers(0, 1000),
)  # fmt: skip


@given(REPLIES)
@settings(max_examples=40)
def test_find_returns_what_was_given(one_journal, outcome):
    outcome = dataclasses.replace(outcome, key=f"{outcome.key}/{uuid.uuid4()}")  # the first outcome of a key stands
    asyncio.run(one_journal.poison(outcome))
    assert one_journal.find(outcome.key) == outcome


def test_history_adds_up_over_runs(tmp_path):
    asked = request()

    async def first(journal):
        await journal.settle(await journal.begin(asked, 100, cap=1000), cost=7, usage=Usage(5, 4, 3, 2), reason="JSON")
        await journal.lose(await journal.begin(asked, 100, cap=1000), "reset")
        await journal.begin(asked, 50, cap=1000)

    with Journal(tmp_path) as journal:
        asyncio.run(first(journal))
        assert journal.history(asked.key) == (2, Usage(5, 4, 3, 2), 107)
    with Journal(tmp_path) as journal:
        assert journal.history(asked.key) == (3, Usage(5, 4, 3, 2), 157)
        assert journal.spent == 157


def test_poisoned_come_with_their_labels_and_can_be_forgiven(tmp_path):
    async def fill(journal):
        for name in "ab":
            asked = request(name)
            attempt = await journal.begin(asked, 10, cap=1000)
            await journal.settle(attempt, cost=4, reply=reply(asked.key, Status.POISONED, ""))
        done = request("c")
        await journal.settle(await journal.begin(done, 10, cap=1000), cost=4, reply=reply(done.key))

    with Journal(tmp_path) as journal:
        asyncio.run(fill(journal))
        assert sorted(label for label, _ in journal.poisoned()) == ["label of a", "label of b"]
        assert journal.forgive() == 2
        assert list(journal.poisoned()) == []
        assert journal.has([request(name).key for name in "abc"]) == {request("c").key}
        assert journal.spent == 12


# --- Groups ----------------------------------------------------------------------------------------------------------


def test_a_change_that_raises_leaves_nothing_and_harms_no_other(tmp_path):
    def half(database):
        database.execute("INSERT INTO money VALUES ('half', 1, 0)")
        raise LookupError("here")

    def forbidden(database):
        database.execute("UPDATE attempts SET reservation = -1")

    async def group(journal):
        return await asyncio.gather(
            journal.begin(request("a"), 10, cap=100), journal.write(half), journal.write(forbidden),
            journal.begin(request("b"), 10, cap=100), return_exceptions=True,
        )  # fmt: skip

    with Journal(tmp_path) as journal:
        first, second, third, fourth = asyncio.run(group(journal))
        assert (first, fourth) == (1, 2)
        assert isinstance(second, LookupError)
        assert isinstance(third, sqlite3.IntegrityError)
        assert journal.spent == 0
        assert journal.reserved == 20


def test_a_cancelled_caller_does_not_undo_the_booking(tmp_path):
    async def cancelled(journal):
        attempt = await journal.begin(request(), 10, cap=100)
        task = asyncio.create_task(journal.settle(attempt, cost=3, reply=reply(request().key)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    with Journal(tmp_path) as journal:
        asyncio.run(cancelled(journal))
    with Journal(tmp_path) as journal:
        assert journal.spent == 3
        assert journal.find(request().key) == reply(request().key)


def test_a_full_disk_is_the_users_and_loses_nothing(tmp_path):
    async def fill(journal):
        await journal.write(lambda database: database.execute("PRAGMA max_page_count = 30").fetchall())
        for number in range(1000):
            asked = request(str(number))
            attempt = await journal.begin(asked, 10, cap=10**6)
            outcome = reply(asked.key, text="x" * 3000)
            await journal.settle(attempt, cost=1, reply=outcome)
            kept.append(outcome)

    kept = []
    with Journal(tmp_path) as journal:
        with pytest.raises(UserError, match=rf"{FILE}: database or disk is full; make room"):
            asyncio.run(fill(journal))
        assert kept
        assert [journal.find(r.key) for r in kept] == kept
    with Journal(tmp_path) as journal:
        assert [journal.find(r.key) for r in kept] == kept
        assert len(kept) <= journal.spent <= len(kept) + 10


def test_memory_does_not_grow_with_replies(tmp_path):
    async def ask(journal, numbers):
        for start in range(numbers.start, numbers.stop, 50):
            await asyncio.gather(*(one(journal, n) for n in range(start, start + 50)))

    async def one(journal, number):
        asked = request(str(number))
        attempt = await journal.begin(asked, 10, cap=10**9)
        await journal.settle(attempt, cost=1, reply=reply(asked.key, text=str(number) * 1000))

    def held(journal):
        journal.forgive()  # a group of its own, so that the writer lets go of the one before
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with Journal(tmp_path) as journal:
        tracemalloc.start()
        try:
            asyncio.run(ask(journal, range(0, 300)))
            before = held(journal)
            asyncio.run(ask(journal, range(300, 1500)))
            assert held(journal) - before < 100_000  # the replies are 4 MB, their keys 150 kB
        finally:
            tracemalloc.stop()


# --- Kills -----------------------------------------------------------------------------------------------------------


def _ask_until_killed(directory, seed):
    """In a child: attempts of every kind, each reported on stdout once the journal says that it is on disk."""
    rng = random.Random(seed)

    async def worker(journal, number):
        for step in range(10**6):
            asked = request(f"{seed}/{number}/{step}")
            reservation = rng.randrange(1, 1000)
            via = rng.choice(["live", "live", "batch/1"])
            attempt = await journal.begin(asked, reservation, cap=10**12, via=via)
            os.write(1, f"begun {attempt} {reservation} {via}\n".encode())
            kind = rng.randrange(4)
            if kind == 0:
                await journal.lose(attempt, "cut off")
                os.write(1, f"lost {attempt} {reservation}\n".encode())
            elif kind < 3:
                cost = rng.randrange(reservation)
                await journal.settle(attempt, cost=cost, reply=reply(asked.key, text=f"{asked.key} {cost}", cost=cost))
                os.write(1, f"settled {attempt} {cost} {asked.key}\n".encode())

    async def all_workers(journal):
        await asyncio.gather(*(worker(journal, number) for number in range(8)))

    with Journal(directory) as journal:
        asyncio.run(all_workers(journal))


def test_sigkill_loses_nothing_that_was_reported(tmp_path):
    """One journal, killed again and again at seeded moments; the sums are recounted from what the dead reported."""
    rng = random.Random(6)
    booked, still_open, replies = {}, {}, {}
    for seed in range(4):
        child = subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(seed)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )  # fmt: skip
        lines = [child.stdout.readline() for _ in range(rng.randrange(1, 400))]
        child.kill()
        lines += child.stdout.readlines()
        assert child.wait() == -9
        for kind, attempt, amount, *what in map(str.split, lines):
            if kind == "begun":
                still_open[attempt] = (int(amount), *what)
            else:
                del still_open[attempt]
                booked[attempt] = int(amount)
                if kind == "settled":
                    replies[what[0]] = f"{what[0]} {amount}"
        with Journal(tmp_path) as journal:
            for key, text in replies.items():
                assert journal.find(key).text == text
            rows = (
                sqlite3.connect(tmp_path / FILE).execute("SELECT id, via, reservation, cost FROM attempts").fetchall()
            )
            costs = {str(i): cost for i, _, _, cost in rows}
            for attempt, amount in booked.items():
                assert costs[attempt] == amount
            for attempt, (amount, via) in still_open.items():
                if via != "live":  # open still, or its end reached the disk and the kill came before the report
                    assert costs[attempt] is None or costs[attempt] <= amount
                else:
                    assert costs[attempt] is not None
            assert journal.spent == sum(cost for cost in costs.values() if cost is not None)
            assert journal.reserved == sum(amount for _, _, amount, cost in rows if cost is None)
    assert len(booked) > 100
    assert any(via == "live" for _, via in still_open.values())


# --- One holder, damage ----------------------------------------------------------------------------------------------


def test_one_process_holds_the_journal(tmp_path):
    child = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path), "0"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip
    try:
        child.stdout.readline()
        with pytest.raises(UserError, match=rf"{tmp_path}: another process is using this journal; wait"):
            Journal(tmp_path)
    finally:
        child.kill()
        child.communicate()
    Journal(tmp_path).close()


def _truncate(path, size):
    os.truncate(path, size)


def _overwrite(path, start, data):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def _execute(path, sql):
    with sqlite3.connect(path) as database:
        database.execute(sql)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: _truncate(path, 0), "format 0"),
        (lambda path: _truncate(path, 20_000), "malformed"),
        (lambda path: _overwrite(path, 0, b"not SQLite at all"), "not a database"),
        (lambda path: _overwrite(path, 8192, os.urandom(4096 * 3)), "."),
        (lambda path: _execute(path, "PRAGMA user_version = 99"), "has format 99, this phi_jax reads 1"),
        (lambda path: _execute(path, "UPDATE money SET spent = 0"), "the sums differ from the attempts"),
        (lambda path: _execute(path, "DELETE FROM attempts WHERE id = 5"), "the sums differ from the attempts"),
        (lambda path: path.rename(path.with_name(f"{FILE}-wal")), "is missing beside"),
    ],
)
def test_damage_is_named(tmp_path, damage, what):
    async def fill(journal):
        for number in range(200):
            await journal.settle(await journal.begin(request(str(number)), 10, cap=10**6), cost=2)

    with Journal(tmp_path) as journal:
        asyncio.run(fill(journal))
    damage(tmp_path / FILE)
    with pytest.raises(UserError, match=rf"{tmp_path / FILE}: .*{what}.*; make room .* put a copy .* in its place"):
        Journal(tmp_path)


def test_a_kill_while_the_journal_is_made_does_not_count_as_damage(tmp_path):
    (tmp_path / f".tmp-{FILE}").write_bytes(b"half a database")
    with Journal(tmp_path) as journal:
        assert journal.spent == 0


def test_places_that_cannot_hold_a_journal(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("gs://bucket/run/teacher", tmp_path / "file"):
        with pytest.raises(UserError, match=r"set config\.budget\.journal to"):
            Journal(place)


def test_a_closed_journal_takes_nothing(tmp_path):
    journal = Journal(tmp_path)
    journal.close()
    with pytest.raises(RuntimeError, match="the journal is closed"):
        journal.forgive()


def test_the_reply_keeps_its_shape():
    """The columns of the database are the fields of Reply and Usage: a new field needs a column and a format."""
    fields = [field.name for field in dataclasses.fields(Reply)]
    assert fields == ["key", "status", "text", "reason", "model", "usage", "cost", "attempts"]
    assert [field.name for field in dataclasses.fields(Usage)] == ["prompt", "completion", "cached", "reasoning"]


if __name__ == "__main__":
    _ask_until_killed(sys.argv[1], int(sys.argv[2]))
