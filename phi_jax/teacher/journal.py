"""Requests, replies and money: one SQLite database that outlives runs, kills and code changes.

Each attempt to have a request answered is one row with a reservation, the most that it can cost. The row is on disk
before anything is sent. It ends in one of two ways: settled at what the server charged, or lost, booked at the whole
reservation. So servers never charge more than `spent` + `reserved`, whenever this process dies; and no attempt begins
that could bring that sum above the cap.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_jax.config import Config
from phi_jax.errors import UserError, one_line
from phi_jax.store.artifact import atomic_path, is_object_store
from phi_jax.teacher.request import Reply, Request, Status, Usage

FILE = "journal.sqlite"
FORMAT = 1
LIVE = "live"  # `via` of an attempt that ends with this process; of a batch it is "batch/" and the plan's name

# All money is in picodollars. An attempt without a cost is open.
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
"""
# Tables that an older journal may lack. `batches`: see server/batch.py; its limit_as is no longer used. `arrived` holds
# paid batch replies that no request has claimed yet.
_LATER_TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    plan TEXT PRIMARY KEY, base_url TEXT NOT NULL, model TEXT NOT NULL, limit_as TEXT NOT NULL,
    file TEXT, batch TEXT, ended INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS arrived (key TEXT PRIMARY KEY, completion TEXT NOT NULL);
"""


class Journal(contextlib.ExitStack):
    """The journal in `directory` (a local one), locked against every other process; a context manager.

    Each change is on disk when its method returns. spent: settled costs and lost reservations of all runs that ever
    used this journal; reserved: reservations of the attempts that are open; both in picodollars. Attempts that are open
    when it is closed stay so; the live ones are booked as lost when it is opened again, as those of a killed process
    are. Raises UserError where another process holds the journal, and, there and in every method, where the database
    cannot be read or written.
    """

    def __init__(self, directory: os.PathLike[str] | str) -> None:
        super().__init__()
        if is_object_store(directory):
            raise UserError(
                f"{directory}: the journal needs a local disk; set config.budget.journal to a directory on one"
            )
        self.path = Path(directory) / FILE
        self.spent = self.reserved = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create()
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            self._database = sqlite3.connect(uri, 0, uri=True, isolation_level=None, check_same_thread=False)
            self._check()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None
        sums = "coalesce(sum(cost), 0), coalesce(sum(iif(cost IS NULL, reservation, 0)), 0)"
        ((self.spent, self.reserved),) = self.read(f"SELECT {sums} FROM attempts")
        if type(self.spent + self.reserved) is not int:  # SQLite keeps fractions in a column of integers
            raise self._unusable(sqlite3.DatabaseError("holds sums of money that are no whole numbers"))
        self.callback(self._database.close)
        self.end_all(LIVE, lost=True, reason="the process was killed")

    # --- SQL -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes made in the block are on disk when it ends, or none where it raises. Blocks may be nested."""
        if self._database.in_transaction:
            yield
            return
        before = self.spent, self.reserved
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield
        except BaseException as error:
            self.spent, self.reserved = before
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from None
            raise

    def write(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Executes one statement that changes something."""
        with self.transaction():
            return self._database.execute(sql, values)

    def read(self, sql: str, *values: Any) -> list[Any]:
        """Rows of a SELECT."""
        try:
            return self._database.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    # --- Attempts --------------------------------------------------------------------------------------------

    def begin(self, request: Request, reservation: int, *, cap: int, via: str = LIVE) -> int | None:
        """Opens an attempt and returns its id; None where it does not fit under the cap now.

        What costs nothing passes no cap, not even one that has been lowered below what is spent.
        """
        if reservation and self.spent + self.reserved + reservation > cap:
            return None
        with self.transaction():
            attempt = self.write(
                "INSERT INTO attempts (key, model, label, via, reservation, began) VALUES (?, ?, ?, ?, ?, ?)",
                request.key, request.model, request.label, via, reservation, time.time(),
            ).lastrowid  # fmt: skip
            self.reserved += reservation
        return attempt

    def end(self, attempt: int, *, cost: int | None, usage: Usage = (0, 0, 0), reason: str = "") -> None:
        """Ends an open attempt at what it cost; None = it is lost, and booked at its full reservation.

        reason: why the answer is not final, or not an answer. Raises ValueError for an attempt that is not open.
        """
        with self.transaction():
            rows = self.write(
                "UPDATE attempts SET cost = coalesce(?, reservation), lost = ?, prompt = ?, completion = ?, "
                "cached = ?, reason = ?, ended = ? WHERE id = ? AND cost IS NULL "
                "RETURNING reservation, cost",
                cost, cost is None, *usage, reason, time.time(), attempt,
            ).fetchall()  # fmt: skip
            if not rows:
                raise ValueError(f"attempt {attempt} is not open")
            ((reservation, booked),) = rows
            self.reserved -= reservation
            self.spent += booked

    def end_all(self, via: str, *, lost: bool, reason: str) -> list[str]:
        """Ends what is open of `via`, as lost, or as never sent and so at no cost; returns the requests' keys."""
        with self.transaction():
            rows = self.read("SELECT id, key FROM attempts WHERE via = ? AND cost IS NULL", via)
            for attempt, _ in rows:
                self.end(attempt, cost=None if lost else 0, reason=reason)
        return [key for _, key in rows]

    # --- Replies ---------------------------------------------------------------------------------------------

    def conclude(self, key: str, status: Status, text: str, reason: str, model: str) -> Reply:
        """Records the outcome of a request, with what all its ended attempts used and cost, and returns it."""
        with self.transaction():
            (row,) = self.write(
                "INSERT OR REPLACE INTO replies SELECT ?1, ?2, ?3, ?4, ?5, coalesce(sum(prompt), 0), "
                "coalesce(sum(completion), 0), coalesce(sum(cached), 0), coalesce(sum(reasoning), 0), "
                "coalesce(sum(cost), 0), count(*), ?6 FROM attempts WHERE key = ?1 AND cost IS NOT NULL RETURNING *",
                key, status, text, reason, model, time.time(),
            ).fetchall()  # fmt: skip
        return _reply(row)

    def find(self, key: str) -> Reply | None:
        """What came of the request with this key, poisoned included; None where it is still to be asked."""
        rows = self.read("SELECT * FROM replies WHERE key = ?", key)
        return _reply(rows[0]) if rows else None

    def has_answers(self, model: str) -> bool:
        """Whether `model` ever answered a request."""
        sql = "SELECT 1 FROM attempts a JOIN replies r USING (key) WHERE a.model = ? AND status != 'poisoned' LIMIT 1"
        return bool(self.read(sql, model))

    def poisoned(self) -> list[Reply]:
        """Of the requests that were given up, by key."""
        return [_reply(row) for row in self.read("SELECT * FROM replies WHERE status = 'poisoned' ORDER BY key")]

    def retry_given_up(self) -> int:
        """Removes the poisoned outcomes, so that those requests are asked again, and returns their number.

        What they cost stays booked.
        """
        return self.write("DELETE FROM replies WHERE status = 'poisoned'").rowcount

    # --- The file --------------------------------------------------------------------------------------------

    def _create(self) -> None:
        if self.path.exists():
            return
        if Path(f"{self.path}-wal").exists():  # an empty journal in its place would pay for its replies again
            raise sqlite3.DatabaseError(f"is missing beside its {FILE}-wal")
        with atomic_path(self.path) as path:
            path.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.executescript(f"PRAGMA journal_mode = MEMORY; BEGIN; {_SCHEMA} COMMIT;")

    def _check(self) -> None:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        ((version,),) = self._database.execute("PRAGMA user_version")
        if version != FORMAT:
            raise sqlite3.DatabaseError(f"has format {version}, this phi_jax reads {FORMAT}")
        ((verdict,), *_) = self._database.execute("PRAGMA quick_check")
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        self._database.executescript(_LATER_TABLES)

    def _unusable(self, error: OSError | sqlite3.Error) -> UserError:
        said = one_line(error)
        if "locked" in said:
            return UserError(f"{self.path}: {said}; another process uses this journal: wait for it, or stop it first")
        return UserError(
            f"{self.path}: {said}; make room if the disk is full, set config.budget.journal to another directory if "
            "this one cannot hold a journal, else put a copy of the journal in its place, or move it away (then "
            "everything is asked, and paid for, again)"
        )


def journal_directory(config: Config, workdir: os.PathLike[str] | str) -> str:
    """W/teacher, or where config.budget.journal says."""
    return config.budget.journal or os.path.join(workdir, "teacher")


def look(directory: os.PathLike[str] | str, sql: str) -> list[Any]:
    """Rows of a SELECT on the journal in a directory, [] where there is none. Changes nothing, and needs no lock.

    Raises UserError where the database cannot be read.
    """
    file = Path(directory).absolute() / FILE
    if not file.exists():
        return []
    # SQLite makes no files beside it; what a killed process wrote last lies in one that is there.
    immutable = "" if file.with_name(f"{FILE}-wal").exists() else "&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro{immutable}", uri=True)) as database:
            return database.execute(sql).fetchall()
    except sqlite3.Error as error:
        raise UserError(
            f"{file}: {error}; put a copy of the journal in its place, or move it away, and what it paid for is paid "
            "for again"
        ) from None


def _reply(row: Sequence[Any]) -> Reply:
    return Reply(*row[:8], *row[9:11])  # between them, the column `reasoning` is no longer used
