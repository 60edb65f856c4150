"""State shared by all requests of one run: the money that may be spent, the wish to stop, and what came of them."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from phi_jax.errors import Preempted, UserError
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.request import PICODOLLARS, Status


class Run:
    """One call of `asking.ask`. cap: picodollars, on all that the journal ever booked.

    sent: live requests whose reservations are not settled yet.
    counts: what came of the requests that were asked; found: requests that the journal had already, or that were given
    twice.
    """

    def __init__(self, journal: Journal, cap: int) -> None:
        self.journal, self.cap = journal, cap
        self.stopping = asyncio.Event()
        self.errors: list[Exception] = []
        self.sent = 0
        self.counts: Counter[Status] = Counter()
        self.found = 0

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs the work of one worker. An error of it stops the others, who still await what they have in flight."""
        try:
            await work
        except Preempted:
            pass
        except Exception as error:
            self.errors.append(error)
            self.stopping.set()

    def no_room(self, why: str) -> UserError:
        """What ends a run at its cap. why: what of the next request."""
        spent, reserved = dollars(self.journal.spent), dollars(self.journal.reserved)
        return UserError(
            f"the budget of {dollars(self.cap)} is used up: {spent} spent, {reserved} reserved, and "
            f"the next request {why}; what is answered is kept: raise config.budget.max_dollars "
            "(--max-dollars of evaluate --server) and start again"
        )

    def check(self) -> None:
        """Raises Preempted where the run is to stop."""
        if self.stopping.is_set():
            raise Preempted("asked to stop")

    async def sleep(self, seconds: float) -> None:
        """Raises Preempted where the run is to stop, at once."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        self.check()


def dollars(picodollars: int) -> str:
    """For people, with cents, and more digits for less than that."""
    value = picodollars / PICODOLLARS
    return f"${value:.2f}" if value >= 0.1 or value == 0 else f"${value:.2g}"
