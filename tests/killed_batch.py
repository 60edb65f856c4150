"""Asks through the Batch API and kills itself with SIGKILL at a chosen moment of the journal's writing.

    python tests/killed_batch.py BASE_URL JOURNAL COUNT BATCH_REQUESTS before|after REGEX N [SECONDS]

The moment: before or after the N-th change whose name matches; SECONDS later, if given. Ends with 0 if it never came.
"""

import asyncio
import os
import re
import signal
import sys
import threading

from pydantic import BaseModel

from phi_jax.teacher import batch
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Request

PRICE = Price(input=3, cached_input=1, output=7, batch_percent=50, as_of="2026-01-01")
PLENTY = 10**12


class Exercise(BaseModel):
    code: str
    tests: list[str]


def endpoint(base_url, **changes):
    fields = {"name": "writer", "model": "teacher", "base_url": base_url, "key_variable": "", "price_as": "",
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
    """What batch.run does; returns the replies that it reported. stop: a condition on which the run is to stop."""
    replies = []

    async def run():
        event = asyncio.Event()
        watch = asyncio.ensure_future(stop_when(event, stop))
        await batch.run(to, asked, journal, PRICE, cap=cap, stop=event, on_reply=replies.append)
        watch.cancel()

    asyncio.run(run())
    return replies


class KilledJournal(Journal):
    def die_at(self, when, pattern, count, seconds):
        self._moment, self._count, self._seconds = (when, pattern), count, seconds

    async def write(self, change):
        when, pattern = self._moment
        matches = re.search(pattern, change.__qualname__)
        if matches and when == "before":
            self._strike()
        result = await super().write(change)
        if matches and when == "after":
            self._strike()
        return result

    def _strike(self):
        self._count -= 1
        if self._count == 0:
            threading.Timer(self._seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            if self._seconds == 0:
                signal.pause()


if __name__ == "__main__":
    base_url, directory, total, size, when, pattern, count, *seconds = sys.argv[1:]
    with KilledJournal(directory) as journal:
        journal.die_at(when, pattern, int(count), float(*seconds or [0]))
        asked = (r for r in requests(int(total), Exercise) if journal.find(r.key) is None)
        ask(journal, endpoint(base_url, batch_requests=int(size)), asked)
