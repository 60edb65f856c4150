"""The journal: money in any interleaving, one holder, damage named. test_teacher*.py have the kills."""

import collections
import contextlib
import os
import sqlite3
import tempfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phi_jax.errors import UserError
from phi_jax.teacher.journal import FILE, Journal
from phi_jax.teacher.request import STATUSES, Reply, Request


def request(name="a", model="m"):
    return Request(model, (("user", name),), 100, 0.5, label=f"label of {name}")


def conclude(journal, key, status="answered", text="yes"):
    return journal.conclude(key, status, text, "" if status == "answered" else "why", "m-2026")


NAMES = st.sampled_from("abcd")
WHICH = st.integers(0, 7)  # of the attempts so far
CHANGES = st.one_of(
    st.tuples(st.just("begin"), NAMES, st.integers(0, 50), st.integers(0, 200), st.sampled_from(["live", "batch/1"])),
    st.tuples(st.just("end"), WHICH, st.none() | st.integers(0, 60), st.sampled_from([None, *STATUSES])),
    st.tuples(st.just("conclude"), NAMES, st.sampled_from(STATUSES)),
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
                journal.end(what + 1, cost=cost, usage=(3, 2, 1))
                if status is not None:
                    self.put(attempt[0], status)
                    conclude(journal, attempt[0], status)

    def check(self, journal):
        assert (journal.spent, journal.reserved) == (self.spent(), self.reserved())
        ended = collections.Counter(key for key, _, cost, _ in self.attempts if cost is not None)
        for key in [request(name).key for name in "abcd"]:
            found = journal.find(key)
            assert (found and found.status) == self.replies.get(key)
            total = conclude(journal, key, found.status) if found else None
            assert total is None or total.attempts == ended[key]
            assert total is None or total.cost == sum(c for k, _, c, _ in self.attempts if k == key and c is not None)
        poisoned = {key for key, status in self.replies.items() if status == "poisoned"}
        assert [reply.key for reply in journal.poisoned()] == sorted(poisoned)


@given(STEPS)
@example([("begin", "a", 50, 100, "live"), ("begin", "b", 50, 100, "live"), ("begin", "c", 0, 100, "live"),
          ("begin", "d", 1, 100, "live"), "fail", "reopen", ("end", 0, 5, None)])  # fmt: skip
@settings(max_examples=30)
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
                    assert journal.find(request("z").key) is None
                elif step == "retry_given_up":
                    kept = {k: s for k, s in books.replies.items() if s != "poisoned"}
                    assert journal.retry_given_up() == len(books.replies) - len(kept)
                    books.replies = kept
                else:
                    books.apply(journal, step)
                books.check(journal)
        finally:
            journal.close()


def test_a_reply_adds_up_the_attempts_of_all_runs(tmp_path):
    asked = request()
    with Journal(tmp_path) as journal:
        journal.end(journal.begin(asked, 100, cap=1000), cost=7, usage=(5, 4, 3), reason="no JSON")
        journal.end(journal.begin(asked, 100, cap=1000), cost=None, reason="reset")
        journal.begin(asked, 50, cap=1000)
    with Journal(tmp_path) as journal:
        reply = journal.conclude(asked.key, "length", "half \0 a reply ∀", "cut", "m-2026")
        assert reply == journal.find(asked.key)
        assert reply == Reply(asked.key, "length", "half \0 a reply ∀", "cut", "m-2026", 5, 4, 3, 157, 3)
        assert journal.spent == 157


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
        assert (journal.spent, journal.reserved) in ((len(kept), 10), (len(kept), 0))
    with Journal(tmp_path) as journal:
        assert [journal.find(r.key) for r in kept] == kept
        assert len(kept) <= journal.spent <= len(kept) + 10


def test_a_journal_of_before_is_read_with_its_sums_and_triggers(tmp_path):
    """Older journals keep their sums in a table, by triggers, and lack the tables of batches."""
    with Journal(tmp_path) as journal:
        journal.begin(request("open"), 30, cap=1000)
        conclude(journal, request("there").key)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
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
        assert journal.find(request("there").key)
        journal.end(journal.begin(request("new"), 10, cap=1000), cost=4)
        assert journal.spent == 34


def test_one_process_holds_the_journal(tmp_path):
    with (
        Journal(tmp_path),
        pytest.raises(UserError, match=rf"{FILE}: .*another process uses this journal: wait"),
    ):
        Journal(tmp_path)
    Journal(tmp_path).close()


def _overwrite(path, start, data):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def _execute(path, sql):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(sql)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: os.truncate(path, 0), "format 0"),
        (lambda path: os.truncate(path, 20_000), "malformed"),
        (lambda path: _overwrite(path, 0, b"not SQLite at all"), "not a database"),
        (lambda path: _overwrite(path, 8192, os.urandom(4096 * 3)), "."),
        (lambda path: _execute(path, "PRAGMA user_version = 99"), "has format 99, this phi_jax reads 1"),
    ],
)
def test_damage_is_named(tmp_path, damage, what):
    with Journal(tmp_path) as journal:
        for number in range(200):
            journal.end(journal.begin(request(str(number)), 10, cap=10**6), cost=2)
    damage(tmp_path / FILE)
    with pytest.raises(UserError, match=rf"{tmp_path / FILE}: .*{what}.*; make room .* put a copy .* in its place"):
        Journal(tmp_path)


def test_a_journal_that_is_gone_beside_its_wal_is_not_made_anew(tmp_path):
    (tmp_path / f"{FILE}-wal").write_bytes(b"replies that were paid for")
    with pytest.raises(UserError, match=rf"{FILE}: .*is missing beside its {FILE}-wal.* put a copy"):
        Journal(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_places_that_cannot_hold_a_journal(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("gs://bucket/run/teacher", tmp_path / "file"):
        with pytest.raises(UserError, match=r"set config\.budget\.journal to"):
            Journal(place)
