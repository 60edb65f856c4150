"""Asks through the Batch API and kills itself with SIGKILL at a chosen transaction of the journal.

    python tests/killed_batch.py BASE_URL JOURNAL COUNT BATCH_REQUESTS before|after REGEX N [SECONDS]

The moment: before or after the N-th transaction that a function with a matching name is making; SECONDS later, if
given. Ends with 0 if it never came.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
import traceback

from pydantic import BaseModel

from phi_jax.errors import Preempted
from phi_jax.teacher.budget import Run
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Endpoint, Price
from phi_jax.teacher.request import Request
from phi_jax.teacher.server.batch import Batches

PRICE = Price(input=3, cached_input=1, output=7, batch_percent=50, as_of="2026-01-01")
PLENTY = 10**18


class Exercise(BaseModel, extra="forbid"):
    code: str
    tests: list[str]


def endpoint(base_url, **changes):
    fields = {"name": "writer", "model": "teacher", "base_url": base_url, "key_variable": "", "price": PRICE,
              "mode": "batch", "window": 4, "batch_requests": 100, "timeout": 30.0, "attempts": 3}  # fmt: skip
    return Endpoint(**{**fields, **changes})


def requests(count, schema=None, start=0):
    for number in range(start, start + count):
        yield Request("teacher", (("user", f"Say something about {number}."),), 400, 1.0, number, schema, f"x/{number}")


async def stop_when(event, condition):
    while condition is None or not condition():
        await asyncio.sleep(0.02)
    event.set()


def ask(journal, to, asked, cap=PLENTY, stop=None):
    """Asks in batches; returns the replies of which it heard. stop: a condition on which the run is to stop."""
    keys = []

    async def run():
        state = Run(journal, cap)
        watch = asyncio.ensure_future(stop_when(state.stopping, stop))
        await Batches(to, state).ask(asked, lambda key, status: keys.append(key))
        watch.cancel()

    with contextlib.suppress(Preempted):
        asyncio.run(run())
    return [journal.find(key) for key in keys]


def cancel(journal, to):
    return asyncio.run(Batches(to, Run(journal, 0)).cancel())


class KilledJournal(Journal):
    moment = ("", "never", 0, 0.0)

    @contextlib.contextmanager
    def transaction(self):
        when, pattern, *_ = self.moment
        outermost = not self._database.in_transaction
        names = " ".join(frame.name for frame in traceback.extract_stack(limit=12))
        matches = outermost and re.search(rf"\b{pattern}\b", names)
        if matches and when == "before":
            self._strike()
        with super().transaction():
            yield
        if matches and when == "after":
            self._strike()

    def _strike(self):
        when, pattern, count, seconds = self.moment
        self.moment = (when, pattern, count - 1, seconds)
        if count == 1:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            if seconds == 0:
                signal.pause()


if __name__ == "__main__":
    base_url, directory, total, size, when, pattern, count, *seconds = sys.argv[1:]
    with KilledJournal(directory) as journal:
        journal.moment = (when, pattern, int(count), float(*seconds or [0]))
        asked = (r for r in requests(int(total), Exercise) if journal.find(r.key) is None)
        ask(journal, endpoint(base_url, batch_requests=int(size)), asked)
