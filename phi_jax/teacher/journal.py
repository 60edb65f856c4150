"""What was asked, what came of it and what it cost: one SQLite database that outlives runs, kills and code changes.

Each attempt to have a request answered is one row with a reservation, the most that it can cost. The row is on disk
before anything is sent, and it ends in one of two ways: settled at what the server charged, or lost, booked at the
whole reservation. So what the servers charge is never more than `spent` + `reserved`, whenever this process dies; and
no attempt begins that could bring that sum above the cap.

One thread writes. It commits whatever has piled up while the disk was busy with the last commit (a group commit);
what is awaited returns when its group is on disk. Whoever reads sees what is on disk.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from phi_jax.errors import UserError
from phi_jax.store.artifact import atomic_path, is_object_store
from phi_jax.teacher.request import Reply, Request, Status, Usage

FILE = "journal.sqlite"
FORMAT = 1
NOTHING_USED = Usage()
LIVE = "live"  # an attempt that ends with this process: what is found open of it is lost

# All money is in picodollars. An attempt without a cost is open. The sums of `money` follow the attempts by triggers,
# so that a reservation is checked in constant time and nothing that is rolled back leaves a trace in them.
_SCHEMA = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    label TEXT NOT NULL,
    via TEXT NOT NULL,
    reservation INTEGER NOT NULL CHECK (reservation >= 0),
    cost INTEGER CHECK (cost >= 0),
    prompt INTEGER NOT NULL DEFAULT 0,
    completion INTEGER NOT NULL DEFAULT 0,
    cached INTEGER NOT NULL DEFAULT 0,
    reasoning INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    began REAL NOT NULL,
    ended REAL
);
CREATE INDEX attempts_of_a_key ON attempts (key);
CREATE INDEX open_attempts ON attempts (via, key) WHERE cost IS NULL;
CREATE TABLE replies (
    key TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    text TEXT NOT NULL,
    reason TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt INTEGER NOT NULL,
    completion INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    arrived REAL NOT NULL
);
CREATE INDEX poisoned_replies ON replies (key) WHERE status = 'poisoned';
CREATE TABLE money (model TEXT PRIMARY KEY, spent INTEGER NOT NULL, reserved INTEGER NOT NULL);
CREATE TRIGGER attempt_begins AFTER INSERT ON attempts BEGIN
    INSERT INTO money VALUES (new.model, 0, new.reservation)
        ON CONFLICT (model) DO UPDATE SET reserved = reserved + new.reservation;
END;
CREATE TRIGGER attempt_ends AFTER UPDATE OF cost ON attempts BEGIN
    UPDATE money SET reserved = reserved - old.reservation, spent = spent + new.cost WHERE model = new.model;
END;
"""
_MONEY = "SELECT model, spent, reserved FROM money WHERE spent OR reserved ORDER BY model"
_MONEY_RECOUNTED = """
    SELECT model, sum(coalesce(cost, 0)) AS spent, sum(iif(cost IS NULL, reservation, 0)) AS reserved
    FROM attempts GROUP BY model HAVING spent OR reserved ORDER BY model"""
_REPLY = "key, status, text, reason, model, prompt, completion, cached, reasoning, cost, attempts"

# What SQLite raises for a full disk or a damaged file (these very types, no subclasses): it ends the whole group.
_OF_THE_DISK = (sqlite3.OperationalError, sqlite3.DatabaseError)

T = TypeVar("T")


class CapReached(Exception):
    """A reservation would pass the cap now. It may fit once others have settled."""


class Journal:
    """The journal in `directory` (a local one), held against every other process; a context manager.

    What the killed process before left open of its live attempts is booked as lost. Raises UserError where another
    process holds the journal, and, there and in every method, where the database cannot be read or written.
    """

    def __init__(self, directory: os.PathLike[str] | str) -> None:
        if is_object_store(directory):
            raise UserError(
                f"{directory}: the journal needs a local disk; set config.budget.journal to a directory on one"
            )
        self.path = Path(directory) / FILE
        self._queue: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future[Any]] | None]
        self._queue = queue.SimpleQueue()
        with ExitStack() as stack:
            self._lock(stack)
            try:
                if not self.path.exists():
                    self._create()
                self._writer = stack.enter_context(closing(self._connect()))
                self._reader = stack.enter_context(closing(self._connect()))
                self._check()
                end_all(self._writer, LIVE, lost=True, reason="the process was killed")
            except sqlite3.Error as error:
                raise self._unusable(error) from None
            self._resources = stack.pop_all()
        self._thread = threading.Thread(target=self._write_groups, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what is still to be written. Attempts that are open stay so, as if the process were killed here."""
        self._queue.put(None)
        self._thread.join()
        self._resources.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- Money -----------------------------------------------------------------------------------------------

    @property
    def spent(self) -> int:
        """Settled costs and lost reservations of all runs that ever used this journal."""
        return self.read("SELECT coalesce(sum(spent), 0) FROM money")[0][0]

    @property
    def reserved(self) -> int:
        """Reservations of the attempts that are open."""
        return self.read("SELECT coalesce(sum(reserved), 0) FROM money")[0][0]

    # --- Attempts --------------------------------------------------------------------------------------------

    async def begin(self, request: Request, reservation: int, *, cap: int, via: str = LIVE) -> int:
        """Opens an attempt and returns its id; it is on disk then. Raises CapReached, and nothing is reserved."""
        attempt = (request.key, request.model, request.label, via, reservation, time.time())

        def change(database: sqlite3.Connection) -> int:
            (committed,) = database.execute("SELECT coalesce(sum(spent + reserved), 0) FROM money").fetchone()
            if (
                reservation and committed + reservation > cap
            ):  # what costs nothing passes no cap, not even a lowered one
                raise CapReached
            sql = "INSERT INTO attempts (key, model, label, via, reservation, began) VALUES (?, ?, ?, ?, ?, ?)"
            return database.execute(sql, attempt).lastrowid or 0

        return await self.write(change)

    async def settle(
        self, attempt: int, *, cost: int, usage: Usage = NOTHING_USED, reason: str = "", reply: Reply | None = None
    ) -> None:
        """Ends an attempt whose answer reached us and cost `cost`; `reply` is the final outcome of its key, if it is.

        reason: why the answer is not final, or not an answer.
        """
        await self.write(lambda database: end(database, attempt, cost=cost, usage=usage, reason=reason, reply=reply))

    async def lose(self, attempt: int, reason: str, *, reply: Reply | None = None) -> None:
        """Ends an attempt of which no whole answer reached us: it is booked at its full reservation."""
        await self.write(lambda database: end(database, attempt, cost=None, reason=reason, reply=reply))

    def history(self, key: str) -> tuple[int, Usage, int]:
        """(how many, what they used, what they cost) of the attempts of `key` that have ended, in all runs."""
        ((count, cost, *usage),) = self.read(
            "SELECT count(*), coalesce(sum(cost), 0), coalesce(sum(prompt), 0), coalesce(sum(completion), 0), "
            "coalesce(sum(cached), 0), coalesce(sum(reasoning), 0) FROM attempts WHERE key = ? AND cost IS NOT NULL",
            key,
        )
        return count, Usage(*usage), cost

    # --- Replies ---------------------------------------------------------------------------------------------

    def find(self, key: str) -> Reply | None:
        """What came of the request with this key, poisoned included; None where it is still to be asked."""
        rows = self.read(f"SELECT {_REPLY} FROM replies WHERE key = ?", key)
        return _reply(rows[0]) if rows else None

    def has(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that `find` finds."""
        sql = "SELECT key FROM replies WHERE key IN (SELECT value FROM json_each(?))"
        return {key for (key,) in self.read(sql, json.dumps(list(keys)))}

    async def poison(self, reply: Reply) -> None:
        """Records a final outcome without an attempt of its own."""
        await self.write(lambda database: put(database, reply))

    def poisoned(self) -> Iterator[tuple[str, Reply]]:
        """(label of the request, outcome) of each request that was given up, by key."""
        label = "coalesce((SELECT label FROM attempts WHERE attempts.key = replies.key ORDER BY id DESC LIMIT 1), '')"
        sql = f"SELECT {label}, {_REPLY} FROM replies WHERE status = 'poisoned' AND key > ? ORDER BY key LIMIT 1000"
        last = ""
        while rows := self.read(sql, last):
            yield from ((label, _reply(row)) for label, *row in rows)
            last = rows[-1][1]

    def forgive(self) -> int:
        """Removes the poisoned outcomes, so that those requests are asked again, and returns their number.

        What they cost stays booked.
        """
        return self._submit(lambda db: db.execute("DELETE FROM replies WHERE status = 'poisoned'").rowcount).result()

    # --- Any table ------------------------------------------------------------------------------------------

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `change` on the writer's thread, in the transaction of its group; on disk when this returns.

        What `change` raises is raised here, and leaves nothing of it. A caller that is cancelled does not stop it.
        """
        return await asyncio.shield(asyncio.wrap_future(self._submit(change)))

    def read(self, sql: str, *values: Any) -> list[Any]:
        """Rows of a SELECT, of what is on disk."""
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def _submit(self, change: Callable[[sqlite3.Connection], T]) -> Future[T]:
        if not self._thread.is_alive():
            raise RuntimeError("the journal is closed")
        future: Future[T] = Future()
        self._queue.put((change, future))
        return future

    def _write_groups(self) -> None:
        closing = False
        while not closing:
            group = [self._queue.get()]
            group += [self._queue.get() for _ in range(self._queue.qsize())]
            closing = group[-1] is None
            self._commit([item for item in group if item is not None])

    def _commit(self, group: list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]]) -> None:
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                outcomes += [self._apply(change) for change, _ in group]
        except sqlite3.Error as error:
            outcomes = [(None, self._unusable(error))] * len(group)
        for (_, future), (result, failure) in zip(group, outcomes, strict=True):
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _apply(self, change: Callable[[sqlite3.Connection], Any]) -> tuple[Any, Exception | None]:
        outcome: tuple[Any, Exception | None]
        self._writer.execute("SAVEPOINT change")
        try:
            outcome = change(self._writer), None
        except Exception as error:
            if type(error) in _OF_THE_DISK:
                raise
            self._writer.execute("ROLLBACK TO change")
            outcome = None, error
        self._writer.execute("RELEASE change")
        return outcome

    # --- The database ----------------------------------------------------------------------------------------

    def _lock(self, stack: ExitStack) -> None:
        directory = self.path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((directory / "journal.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{directory}: another process is using this journal; wait for it, or stop it first"
            ) from None
        except OSError as error:
            raise UserError(
                f"{directory}: cannot hold a journal ({error.strerror}); set config.budget.journal to another directory"
            ) from None

    def _create(self) -> None:
        if Path(f"{self.path}-wal").exists():
            raise sqlite3.DatabaseError(f"is missing beside its {FILE}-wal")
        with atomic_path(self.path) as path:
            path.unlink(missing_ok=True)
            with closing(sqlite3.connect(path)) as database:
                database.executescript(f"PRAGMA journal_mode = MEMORY; BEGIN; {_SCHEMA} COMMIT;")

    def _connect(self) -> sqlite3.Connection:
        """A connection to the database that is there; one may be used from several threads (SQLite serialises)."""
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        return database

    def _check(self) -> None:
        ((version,),) = self.read("PRAGMA user_version")
        if version != FORMAT:
            raise sqlite3.DatabaseError(f"has format {version}, this phi_jax reads {FORMAT}")
        ((verdict,),) = self.read("PRAGMA quick_check(attempts)")
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        if self.read(_MONEY) != self.read(_MONEY_RECOUNTED):
            raise sqlite3.DatabaseError("the sums differ from the attempts")

    def _unusable(self, error: sqlite3.Error) -> UserError:
        return UserError(
            f"{self.path}: {' '.join(str(error).split())}; make room if the disk is full, else put a copy of the "
            "journal in its place, or move it away (then everything is asked, and paid for, again)"
        )


def end(
    database: sqlite3.Connection,
    attempt: int,
    *,
    cost: int | None,
    usage: Usage = NOTHING_USED,
    reason: str = "",
    reply: Reply | None = None,
) -> None:
    """Within a change: ends an open attempt, see `Journal.settle`; without a cost it is lost, see `Journal.lose`."""
    ended = database.execute(
        "UPDATE attempts SET cost = coalesce(?, reservation), lost = ?, prompt = ?, completion = ?, cached = ?, "
        "reasoning = ?, reason = ?, ended = ? WHERE id = ? AND cost IS NULL",
        (cost, cost is None, *dataclasses.astuple(usage), reason, time.time(), attempt),
    )
    if ended.rowcount != 1:
        raise ValueError(f"attempt {attempt} is not open")
    if reply is not None:
        put(database, reply)


def end_all(database: sqlite3.Connection, via: str, *, lost: bool, reason: str) -> None:
    """Within a change: ends what is open of `via`, as lost, or as never sent and so for nothing."""
    database.execute(
        "UPDATE attempts SET cost = iif(?, reservation, 0), lost = ?, reason = ?, ended = ? "
        "WHERE via = ? AND cost IS NULL",
        (lost, lost, reason, time.time(), via),
    )


def put(database: sqlite3.Connection, reply: Reply) -> None:
    """Within a change: records a final outcome. One that is there already stays, but a poisoned one gives way."""
    database.execute("DELETE FROM replies WHERE key = ? AND status = 'poisoned'", (reply.key,))
    database.execute(
        f"INSERT INTO replies ({_REPLY}, arrived) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (key) DO NOTHING",
        (
            reply.key, reply.status.value, reply.text, reply.reason, reply.model, *dataclasses.astuple(reply.usage),
            reply.cost, reply.attempts, time.time(),
        ),
    )  # fmt: skip


def _reply(row: Sequence[Any]) -> Reply:
    key, status, text, reason, model, *usage, cost, attempts = row
    return Reply(key, Status(status), text, reason, model, Usage(*usage), cost, attempts)
