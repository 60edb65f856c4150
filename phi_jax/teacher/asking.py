"""Brings a reply to each request into the journal: all endpoints at once, under one budget, until stopped.

Workers draw from one iterator an endpoint, so memory does not grow with the number of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType

from phi_jax.errors import Preempted
from phi_jax.progress import Progress
from phi_jax.teacher.budget import Budget, dollars
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price, PriceTable
from phi_jax.teacher.request import Endpoint, Request, Status
from phi_jax.teacher.server.batch import Batches, refuse_open
from phi_jax.teacher.server.live import Live


@dataclasses.dataclass
class Tally:
    """What came of the requests of one call."""

    counts: Counter[Status] = dataclasses.field(default_factory=Counter)  # of those that were asked
    found: int = 0  # were in the journal already, or were given twice
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
    the model, the quota or every request. SIGINT and SIGTERM end the run with KeyboardInterrupt and Preempted once what
    is in flight has arrived; a second signal does not wait for it. What arrived is kept, whatever is raised.
    """
    run = _Run(Budget(journal, cap), label, total)
    begin = time.monotonic()
    with asyncio.Runner() as runner, _signals(run, runner.get_loop()), contextlib.suppress(asyncio.CancelledError):
        runner.run(run.all([(endpoint, prices.of(endpoint), requests) for endpoint, requests in jobs.items()]))
    if run.signal == signal.SIGTERM:
        raise Preempted(f"{label}: asked to stop; the replies that arrived are kept")
    if run.signal is not None:
        raise KeyboardInterrupt
    run.tally.seconds = time.monotonic() - begin
    return run.tally


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

    def __init__(self, budget: Budget, label: str, total: int) -> None:
        self.tally = Tally()
        self.signal: int | None = None
        self._budget, self._label, self._total = budget, label, total
        self._busy: set[str] = set()  # keys drawn and not yet answered, of all endpoints

    async def all(self, jobs: Iterable[tuple[Endpoint, Price, Iterable[Request]]]) -> None:
        """Raises the first error that a worker met, once none has anything in flight."""
        self._task = asyncio.current_task()
        with Progress(self._label, self._total, "replies") as self._progress:
            await asyncio.gather(*(self._budget.guard(self._ask(*job)) for job in jobs))
            if self._budget.errors and self.signal is None:
                raise self._budget.errors[0]

    def interrupt(self, number: int) -> None:
        """A signal came. After the first, what is in flight is awaited; after the second, it is booked as lost."""
        self._budget.stopping.set()
        if self.signal is not None and self._task is not None:
            self._task.cancel()
        self.signal = self.signal or number

    async def _ask(self, endpoint: Endpoint, price: Price, requests: Iterable[Request]) -> None:
        asker: Live | Batches
        if endpoint.mode == "batch":
            asker = Batches(endpoint, price, self._budget)
        else:
            refuse_open(endpoint, self._budget.journal)
            asker = Live(endpoint, price, self._budget)
        await asker.ask(self._new(requests), self._count)

    def _new(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Those of the requests that the journal does not have and that are not under way."""
        for request in requests:
            if request.key in self._busy or self._budget.journal.has(request.key):
                self.tally.found += 1
                self._progress.skip(1)
            else:
                self._busy.add(request.key)
                yield request

    def _count(self, key: str, status: Status) -> None:
        self._busy.discard(key)
        self.tally.counts[status] += 1
        note = f"{dollars(self._budget.journal.spent)} of {dollars(self._budget.cap)}"
        if poisoned := self.tally.counts[Status.POISONED]:
            note += f", {poisoned} given up"
        self._progress.advance(1, note)
