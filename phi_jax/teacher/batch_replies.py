"""What batches brought and no request has drawn yet. It is booked, so whoever asks next takes it, in whatever mode."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Sequence

from phi_jax.teacher import structured
from phi_jax.teacher.completion import Completion
from phi_jax.teacher.journal import Journal, put
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.structured import Misfit

TABLE = "CREATE TABLE IF NOT EXISTS arrived (key TEXT PRIMARY KEY, completion TEXT NOT NULL)"


class Unfit(Exception):
    """The completion is no reply: it does not fit the request's schema."""

    def __init__(self, text: str, misfit: Misfit) -> None:
        super().__init__(f"the reply does not fit the schema: {misfit}")
        self.correction = structured.correction(text, misfit)


async def prepare(journal: Journal) -> None:
    """Before anything else here."""
    await journal.write(lambda database: database.execute(TABLE))


def keep(database: sqlite3.Connection, key: str, completion: Completion) -> None:
    """Within a change."""
    kept = json.dumps(dataclasses.asdict(completion))
    database.execute("INSERT OR REPLACE INTO arrived VALUES (?, ?)", (key, kept))


def among(journal: Journal, keys: Sequence[str]) -> set[str]:
    """Those of the keys for which something has arrived."""
    sql = "SELECT key FROM arrived WHERE key IN (SELECT value FROM json_each(?))"
    return {key for (key,) in journal.read(sql, json.dumps(list(keys)))}


async def draw(journal: Journal, endpoint: Endpoint, request: Request) -> Reply | None:
    """Brings what has arrived for the request into the journal as its reply; None where nothing has.

    Raises Unfit, and it is gone then.
    """
    rows = journal.read("SELECT completion FROM arrived WHERE key = ?", request.key)
    if not rows:
        return None
    found = json.loads(rows[0][0])
    text, status = found["text"], Status(found["status"])
    try:
        if request.schema is not None and status is Status.ANSWERED:
            text = structured.fit(text, request.schema)
    except Misfit as misfit:
        await journal.write(lambda database: _forget(database, request.key))
        raise Unfit(found["text"], misfit) from None
    attempts, usage, cost = journal.history(request.key)
    model = found["model"] or endpoint.model
    reply = Reply(request.key, status, text, found["reason"], model, usage, cost, attempts)

    def change(database: sqlite3.Connection) -> None:
        put(database, reply)
        _forget(database, request.key)

    await journal.write(change)
    return reply


def _forget(database: sqlite3.Connection, key: str) -> None:
    database.execute("DELETE FROM arrived WHERE key = ?", (key,))
