"""The journal: money in any interleaving, durability under SIGKILL, one holder, damage named."""

import collections
import contextlib
import dataclasses
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import ROOT

from phi_jax.errors import UserError
from phi_jax.teacher.journal import FILE, Journal
from phi_jax.teacher.request import Reply, Request, Status, Usage


def request(name="a", model="m"):
    return Request(model, (("user", name),), 100, 0.5, label=f"label of {name}")


def conclude(journal, key, status=Status.ANSWERED, text="yes"):
    return journal.conclude(key, status, text, "" if status is Status.ANSWERED else "why", "m-2026")


# --- Money -----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abcd")
WHICH = st.integers(0, 7)  # of the attempts so far
CHANGES = st.one_of(
    st.tuples(st.just("begin"), NAMES, st.integers(0, 50), st.integers(0, 200), st.sampled_from(["live", "batch/1"])),
    st.tuples(st.just("end"), WHICH, st.none() | st.integers(0, 60), st.sampled_from([None, *Status])),
    st.tuples(st.just("conclude"), NAMES, st.sampled_from(Status)),
)
STEPS = st.lists(CHANGES | st.sampled_from(["reopen", "fail", "retry_given_up"]), max_size=40)


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

    def apply(self, journal, change):
        """Does the same in the journal."""
        kind, what, *rest = change
        if kind == "begin":
            amount, cap, via = rest
            fits = amount == 0 or self.spent() + self.reserved() + amount <= cap
            if fits:
                self.attempts.append([request(what).key, amount, None, via])
            number = len(self.attempts)
            assert journal.begin(request(what), amount, cap=cap, via=via) == (number if fits else None)
        elif kind == "conclude":
            self.put(request(what).key, rest[0])
            conclude(journal, request(what).key, rest[0])
        elif what >= len(self.attempts) or self.attempts[what][2] is not None:
            with pytest.raises(ValueError, match="is not open"):
                journal.end(what + 1, cost=rest[0])
        else:
            cost, status = rest
            attempt = self.attempts[what]
            attempt[2] = attempt[1] if cost is None else cost
            with journal.transaction():
                journal.end(what + 1, cost=cost, usage=Usage(3, 2, 1, 0))
                if status is not None:
                    self.put(attempt[0], status)
                    conclude(journal, attempt[0], status)

    def check(self, journal):
        assert (journal.spent, journal.reserved) == (self.spent(), self.reserved())
        ended = collections.Counter(key for key, _, cost, _ in self.attempts if cost is not None)
        for key in [request(name).key for name in "abcd"]:
            found = journal.find(key)
            assert (found and found.status) == self.replies.get(key)
            assert journal.has(key) == (key in self.replies)
            total = conclude(journal, f"{key}?")  # of another key
            assert (total.attempts, total.cost) == (0, 0)
            total = conclude(journal, key) if key in self.replies and found.status is not Status.POISONED else None
            assert total is None or total.attempts == ended[key]
            assert total is None or total.cost == sum(c for k, _, c, _ in self.attempts if k == key and c is not None)
        poisoned = {key for key, status in self.replies.items() if status is Status.POISONED}
        assert [r.key for _, r in journal.poisoned()] == sorted(poisoned)


@given(STEPS)
@example([("begin", "a", 50, 100, "live"), ("begin", "b", 50, 100, "live"), ("begin", "c", 0, 100, "live"),
          ("begin", "d", 1, 100, "live"), "fail", "reopen", ("end", 0, 5, None)])  # fmt: skip
@settings(max_examples=40)
def test_money_in_any_order(steps):
    """Reopening is what a kill leaves: live attempts are lost, others stay open. What fails leaves no trace."""
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
                elif step == "fail":
                    with contextlib.suppress(LookupError), journal.transaction():
                        journal.begin(request("z"), 10, cap=10**6)
                        conclude(journal, request("z").key)
                        raise LookupError("here")
                    assert not journal.has(request("z").key)
                elif step == "retry_given_up":
                    kept = {k: s for k, s in books.replies.items() if s is not Status.POISONED}
                    assert journal.retry_given_up() == len(books.replies) - len(kept)
                    books.replies = kept
                else:
                    books.apply(journal, step)
                books.check(journal)
        finally:
            journal.close()


@pytest.fixture(scope="module")
def one_journal(tmp_path_factory):
    with Journal(tmp_path_factory.mktemp("journal")) as journal:
        yield journal


@given(st.text(), st.sampled_from(Status), st.text(), st.text(), st.text())
@settings(max_examples=40)
def test_find_returns_what_was_given(one_journal, key, status, text, reason, model):
    key = f"{key}/{uuid.uuid4()}"  # the first outcome of a key stands
    reply = one_journal.conclude(key, status, text, reason, model)
    assert reply == Reply(key, status, text, reason, model, Usage(), 0, 0) == one_journal.find(key)


def test_a_reply_adds_up_the_attempts_of_all_runs(tmp_path):
    asked = request()
    with Journal(tmp_path) as journal:
        journal.end(journal.begin(asked, 100, cap=1000), cost=7, usage=Usage(5, 4, 3, 2), reason="no JSON")
        journal.end(journal.begin(asked, 100, cap=1000), cost=None, reason="reset")
        journal.begin(asked, 50, cap=1000)
    with Journal(tmp_path) as journal:
        reply = conclude(journal, asked.key)
        assert (reply.attempts, reply.usage, reply.cost) == (3, Usage(5, 4, 3, 2), 157)
        assert journal.spent == 157


def test_requests_given_up_come_with_their_labels_and_can_be_asked_again(tmp_path):
    with Journal(tmp_path) as journal:
        for name, status in (("a", Status.POISONED), ("b", Status.POISONED), ("c", Status.ANSWERED)):
            journal.end(journal.begin(request(name), 10, cap=1000), cost=4)
            conclude(journal, request(name).key, status)
        assert sorted(label for label, _ in journal.poisoned()) == ["label of a", "label of b"]
        assert journal.retry_given_up() == 2
        assert list(journal.poisoned()) == []
        assert [journal.has(request(name).key) for name in "abc"] == [False, False, True]
        assert journal.spent == 12


def test_a_full_disk_is_the_users_and_loses_nothing(tmp_path):
    kept = []

    def fill(journal):
        for number in range(1000):
            asked = request(str(number))
            attempt = journal.begin(asked, 10, cap=10**6)
            with journal.transaction():
                journal.end(attempt, cost=1)
                reply = conclude(journal, asked.key, text="x" * 3000)
            kept.append(reply)

    with Journal(tmp_path) as journal:
        journal.read("PRAGMA max_page_count = 40")
        with pytest.raises(UserError, match=rf"{FILE}: database or disk is full; make room"):
            fill(journal)
        assert len(kept) > 3
        assert [journal.find(r.key) for r in kept] == kept
        assert (journal.spent, journal.reserved) in ((len(kept), 10), (len(kept), 0))
    with Journal(tmp_path) as journal:
        assert [journal.find(r.key) for r in kept] == kept
        assert len(kept) <= journal.spent <= len(kept) + 10


def test_a_journal_of_before_is_read_with_its_sums_and_triggers(tmp_path):
    """Older journals keep their sums in a table, by triggers, and lack the tables of batches."""
    with Journal(tmp_path) as journal:
        journal.begin(request("open"), 30, cap=1000)
        conclude(journal, request("there").key)
    with sqlite3.connect(tmp_path / FILE) as database:
        database.executescript("""
            DROP TABLE batches; DROP TABLE arrived;
            CREATE TABLE money (model TEXT PRIMARY KEY, spent INTEGER NOT NULL, reserved INTEGER NOT NULL);
            CREATE TRIGGER attempt_begins AFTER INSERT ON attempts BEGIN
                INSERT INTO money VALUES (new.model, 0, new.reservation)
                    ON CONFLICT (model) DO UPDATE SET reserved = reserved + new.reservation;
            END;
            CREATE TRIGGER attempt_ends AFTER UPDATE OF cost ON attempts BEGIN
                UPDATE money SET reserved = reserved - old.reservation, spent = spent + new.cost
                    WHERE model = new.model;
            END;""")
    with Journal(tmp_path) as journal:
        assert (journal.spent, journal.reserved) == (30, 0)
        assert journal.has(request("there").key)
        journal.end(journal.begin(request("new"), 10, cap=1000), cost=4)
        assert journal.spent == 34


# --- Kills -----------------------------------------------------------------------------------------------------------


def _ask_until_killed(directory, seed):
    """In a child: attempts of every kind, each reported on stdout once the journal says that it is on disk."""
    rng = random.Random(seed)
    with Journal(directory) as journal:
        for step in range(10**6):
            asked = request(f"{seed}/{step}")
            reservation = rng.randrange(1, 1000)
            via = rng.choice(["live", "live", "batch/1"])
            attempt = journal.begin(asked, reservation, cap=10**12, via=via)
            os.write(1, f"begun {attempt} {reservation} {via}\n".encode())
            kind = rng.randrange(4)
            if kind == 0:
                journal.end(attempt, cost=None, reason="cut off")
                os.write(1, f"lost {attempt} {reservation}\n".encode())
            elif kind < 3:
                cost = rng.randrange(reservation)
                with journal.transaction():
                    journal.end(attempt, cost=cost)
                    conclude(journal, asked.key, text=f"{asked.key} {cost}")
                os.write(1, f"settled {attempt} {cost} {asked.key}\n".encode())


def start_asking(directory, seed):
    return subprocess.Popen(
        [sys.executable, __file__, str(directory), str(seed)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip


def test_sigkill_loses_nothing_that_was_reported(tmp_path):
    """One journal, killed again and again at seeded moments; the sums are recounted from what the dead reported."""
    rng = random.Random(6)
    booked, still_open, replies = {}, {}, {}
    for seed in range(3):
        child = start_asking(tmp_path, seed)
        lines = [child.stdout.readline() for _ in range(rng.randrange(100, 400))]
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
            rows = journal.read("SELECT id, reservation, cost FROM attempts")
            costs = {str(i): cost for i, _, cost in rows}
            for attempt, amount in booked.items():
                assert costs[attempt] == amount
            for attempt, (amount, via) in still_open.items():
                if via != "live":  # open still, or its end reached the disk and the kill came before the report
                    assert costs[attempt] is None or costs[attempt] <= amount
                else:
                    assert costs[attempt] is not None
            assert journal.spent == sum(cost for cost in costs.values() if cost is not None)
            assert journal.reserved == sum(amount for _, amount, cost in rows if cost is None)
    assert len(booked) > 100
    assert any(via == "live" for _, via in still_open.values())


# --- One holder, damage ----------------------------------------------------------------------------------------------


def test_one_process_holds_the_journal(tmp_path):
    child = start_asking(tmp_path, 0)
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
        (lambda path: path.rename(path.with_name(f"{FILE}-wal")), "is missing beside"),
    ],
)
def test_damage_is_named(tmp_path, damage, what):
    with Journal(tmp_path) as journal:
        for number in range(200):
            journal.end(journal.begin(request(str(number)), 10, cap=10**6), cost=2)
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


def test_the_reply_keeps_its_shape():
    """The columns of the database are the fields of Reply and Usage: a new field needs a column and a format."""
    fields = [field.name for field in dataclasses.fields(Reply)]
    assert fields == ["key", "status", "text", "reason", "model", "usage", "cost", "attempts"]
    assert [field.name for field in dataclasses.fields(Usage)] == ["prompt", "completion", "cached", "reasoning"]


if __name__ == "__main__":
    _ask_until_killed(sys.argv[1], int(sys.argv[2]))
