"""Bringing a reply to each request into the journal: all endpoints at once, under one budget, until stopped.

Workers draw from one iterator an endpoint, so memory does not grow with the number of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from phi_jax.errors import Preempted
from phi_jax.progress import Progress
from phi_jax.teacher import batch, batch_replies
from phi_jax.teacher.budget import Purse, Stop, Stopped, dollars
from phi_jax.teacher.client import Client
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price, PriceTable
from phi_jax.teacher.request import Endpoint, Reply, Request, Status

_CHUNK = 256  # requests of which the journal is asked at once whether it has them


@dataclasses.dataclass
class Tally:
    """What came of the requests of one call."""

    counts: Counter[Status] = dataclasses.field(default_factory=Counter)  # of those that were asked
    found: int = 0  # were in the journal already, or were given twice
    spent: int = 0  # picodollars, by this call
    seconds: float = 0.0


def ask(
    jobs: Mapping[Endpoint, Iterable[Request]],
    journal: Journal,
    prices: PriceTable,
    *,
    cap: int,
    label: str,
    total: int,
) -> Tally:
    """Returns when each request has a reply in the journal; those that have one are not asked again.

    jobs: for each endpoint its requests, drawn as they are needed. cap: picodollars, on all that the journal ever
    booked. label, total: for the progress line.

    Raises UserError where the cap leaves no room, and where a server answers nobody: is not there, refuses the key,
    the model or the quota. SIGINT and SIGTERM end the run with KeyboardInterrupt and Preempted once what is in
    flight has arrived; a second signal does not wait for it. What arrived is kept, whatever is raised.
    """
    run = _Run(journal, prices, cap, label, total)
    begin, before = time.monotonic(), journal.spent
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        stack.enter_context(_signals(run, runner.get_loop()))
        runner.run(run.all(jobs))
    if run.signal is not None:
        if run.signal == signal.SIGTERM:
            raise Preempted(f"{label}: asked to stop; the replies that arrived are kept")
        raise KeyboardInterrupt
    run.tally.spent = journal.spent - before
    run.tally.seconds = time.monotonic() - begin
    return run.tally


def cancel_batches(endpoint: Endpoint, journal: Journal, prices: PriceTable) -> int:
    """Cancels what the Batch API still works on for this endpoint; keeps what it has done. Returns how many batches."""
    return asyncio.run(batch.cancel(endpoint, journal, prices.of(endpoint)))


@contextlib.contextmanager
def _signals(run: _Run, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """In the main thread, SIGINT and SIGTERM stop the run; elsewhere they are not this function's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(run.interrupt, number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Run:
    """One call of `ask`."""

    def __init__(self, journal: Journal, prices: PriceTable, cap: int, label: str, total: int) -> None:
        self.tally = Tally()
        self.signal: int | None = None
        self._journal, self._prices, self._cap = journal, prices, cap
        self._label, self._total = label, total
        self._stop = Stop()
        self._purse = Purse(journal, cap, self._stop)
        self._busy: set[str] = set()  # keys drawn and not yet answered, of all endpoints
        self._arrived: set[str] = set()  # of these, those that a batch has brought
        self._errors: list[BaseException] = []

    async def all(self, jobs: Mapping[Endpoint, Iterable[Request]]) -> None:
        """Raises the first error that a worker met, once none has anything in flight."""
        priced = {endpoint: self._prices.of(endpoint) for endpoint in jobs}
        with Progress(self._label, self._total, "replies") as self._progress:
            tasks = [
                self._guarded((self._batch if e.mode == "batch" else self._live)(e, priced[e], requests))
                for e, requests in jobs.items()
            ]
            await asyncio.gather(*tasks)
            if self._errors and self.signal is None:
                raise self._errors[0]

    def interrupt(self, number: int) -> None:
        """A signal came. The first awaits what is in flight, the second does not."""
        again = self.signal is not None
        self.signal = number if self.signal is None else self.signal
        self._stop.request(urgent=again)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """An error of one worker stops the others, who still await what they have in flight."""
        try:
            await work
        except Stopped:
            pass
        except Exception as error:
            self._errors.append(error)
            self._stop.request()

    async def _live(self, endpoint: Endpoint, price: Price, requests: Iterable[Request]) -> None:
        batch.refuse_open(endpoint, self._journal)
        await batch_replies.prepare(self._journal)
        async with Client(endpoint, price, self._purse, self._stop) as client:
            source = self._new(requests)
            workers = [self._guarded(self._worker(client, endpoint, source)) for _ in range(endpoint.window)]
            await asyncio.gather(*workers)
            if not self._stop.wished.is_set():
                await client.finish()

    async def _worker(self, client: Client, endpoint: Endpoint, source: Iterator[Request]) -> None:
        for request in source:
            self._stop.check()
            reply = None
            if request.key in self._arrived:
                with contextlib.suppress(batch_replies.Unfit):
                    reply = await batch_replies.draw(self._journal, endpoint, request)
            self._count(reply or await client.reply_to(request))

    async def _batch(self, endpoint: Endpoint, price: Price, requests: Iterable[Request]) -> None:
        await batch_replies.prepare(self._journal)
        with self._purse.other_work():
            await batch.run(
                endpoint, self._new(requests), self._journal, price, cap=self._cap, stop=self._stop.wished,
                on_reply=self._count,
            )  # fmt: skip

    def _new(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Those of the requests that the journal does not have and that are not under way."""
        source = iter(requests)
        while chunk := list(itertools.islice(source, _CHUNK)):
            wanted = {request.key: request for request in chunk}
            keys = [key for key in wanted if key not in self._busy]
            there = self._journal.has(keys)
            new = [key for key in keys if key not in there]
            self._busy.update(new)
            self._arrived |= batch_replies.among(self._journal, new)
            self.tally.found += len(chunk) - len(new)
            self._progress.skip(len(chunk) - len(new))
            yield from (wanted[key] for key in new)

    def _count(self, reply: Reply) -> None:
        self._busy.discard(reply.key)
        self._arrived.discard(reply.key)
        self.tally.counts[reply.status] += 1
        self._advance(1)

    def _advance(self, amount: int) -> None:
        note = f"{dollars(self._journal.spent)} of {dollars(self._cap)}"
        if poisoned := self.tally.counts[Status.POISONED]:
            note += f", {poisoned} poisoned"
        self._progress.advance(amount, note)
