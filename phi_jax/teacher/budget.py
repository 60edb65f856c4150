"""What the requests of one run share: the budget that each attempt is taken from, and the wish to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from phi_jax.errors import UserError
from phi_jax.teacher.journal import NOTHING_USED, CapReached, Journal
from phi_jax.teacher.request import PICODOLLARS, Reply, Request, Usage


class Stopped(Exception):
    """The run is to stop, so nothing more is sent."""


class Stop:
    """The wish to stop: what is in flight is still awaited, unless the wish is urgent."""

    def __init__(self) -> None:
        self.wished = asyncio.Event()
        self.urgent = False
        self._deadlines: set[asyncio.Timeout] = set()

    def request(self, *, urgent: bool = False) -> None:
        self.wished.set()
        self.urgent = self.urgent or urgent
        if urgent:
            for deadline in self._deadlines:
                self._expire(deadline)

    @contextlib.asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Raises TimeoutError in the block after `seconds`, or at once on an urgent wish."""
        async with asyncio.timeout(seconds) as deadline:
            self._deadlines.add(deadline)
            try:
                if self.urgent:
                    self._expire(deadline)
                yield
            finally:
                self._deadlines.discard(deadline)

    async def sleep(self, seconds: float) -> None:
        """Raises Stopped where the wish is there or comes meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wished.wait()
        self.check()

    def check(self) -> None:
        if self.wished.is_set():
            raise Stopped

    @staticmethod
    def _expire(deadline: asyncio.Timeout) -> None:
        if not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time())


class Purse:
    """Attempts of live requests against one cap (picodollars, over all that the journal ever booked).

    An attempt for which there is no room waits until others have ended and left some. A caller that is cancelled
    leaves no attempt open that was not sent; one that was sent is the caller's to lose.
    """

    def __init__(self, journal: Journal, cap: int, stop: Stop) -> None:
        self.journal, self._cap, self._stop = journal, cap, stop
        self._open = 0
        self._freed = asyncio.Event()
        self._queue = asyncio.Lock()

    @contextlib.contextmanager
    def other_work(self) -> Iterator[None]:
        """While in this block, something else (a batch) may end attempts of the journal and so leave room."""
        self._open += 1
        try:
            yield
        finally:
            self._end()

    async def begin(self, request: Request, reservation: int) -> int:
        """Opens an attempt and returns its id; it is on disk then.

        Raises UserError where there is no room and nothing under way that could leave some, Stopped on that wish.
        """
        self._stop.check()
        try:
            return await self._try(request, reservation)
        except CapReached:
            pass
        async with self._queue:  # one at a time tries again
            while True:
                self._freed.clear()
                try:
                    return await self._try(request, reservation)
                except CapReached:
                    if not self._open:
                        raise used_up(self.journal, self._cap, f"may cost {dollars(reservation)}") from None
                await self._freed.wait()
                self._stop.check()

    async def settle(
        self, attempt: int, *, cost: int, usage: Usage = NOTHING_USED, reason: str = "", reply: Reply | None = None
    ) -> None:
        """See Journal.settle."""
        try:
            await self.journal.settle(attempt, cost=cost, usage=usage, reason=reason, reply=reply)
        finally:
            self._end()

    async def lose(self, attempt: int, reason: str) -> None:
        """See Journal.lose."""
        try:
            await self.journal.lose(attempt, reason)
        finally:
            self._end()

    async def _try(self, request: Request, reservation: int) -> int:
        self._open += 1
        beginning = asyncio.ensure_future(self.journal.begin(request, reservation, cap=self._cap))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            with contextlib.suppress(CapReached):
                await self.journal.settle(await beginning, cost=0, reason="not sent")
            self._end()
            raise
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self._open -= 1
        self._freed.set()


def used_up(journal: Journal, cap: int, why: str) -> UserError:
    """The cap leaves no room. why: what of the next request, "does not fit"."""
    held = f" and {dollars(journal.reserved)} reserved by open batches" if journal.reserved else ""
    return UserError(
        f"the budget of {dollars(cap)} is used up: {dollars(journal.spent)} spent{held}, and the next request {why}; "
        "what was answered is kept: raise config.budget.max_dollars and start again"
    )


def dollars(picodollars: int) -> str:
    """For people, with cents, and more digits for less than that."""
    value = picodollars / PICODOLLARS
    return f"${value:.2f}" if value >= 0.1 or value == 0 else f"${value:.2g}"
