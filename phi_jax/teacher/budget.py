"""State shared by all requests of a run: the money that may be spent, and the wish to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from phi_jax.errors import UserError
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.request import PICODOLLARS, Request

_LOOK_AGAIN = 0.05  # seconds until a request that found no room looks for it again


class Stopped(Exception):
    """The run is to stop, so nothing more is sent."""


class Budget:
    """The cap (picodollars, on all that the journal ever booked) and the stop flag of one run.

    under_way: live attempts and open batches of this run. Where they end, they may leave room under the cap.
    """

    def __init__(self, journal: Journal, cap: int) -> None:
        self.journal, self.cap = journal, cap
        self.under_way = 0
        self.stopping = asyncio.Event()
        self.errors: list[Exception] = []

    async def begin(self, request: Request, reservation: int) -> int:
        """Opens a live attempt and returns its id; it is on disk then. Waits while the cap leaves no room.

        Raises UserError where nothing is under way that could leave room, Stopped where the run is to stop.
        """
        while True:
            self.check()
            attempt = self.journal.begin(request, reservation, cap=self.cap)
            if attempt is not None:
                self.under_way += 1
                return attempt
            await self.wait_for_room(f"may cost {dollars(reservation)}")

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs the work of one worker. An error of it stops the others, who still await what they have in flight."""
        try:
            await work
        except Stopped:
            pass
        except Exception as error:
            self.errors.append(error)
            self.stopping.set()

    async def wait_for_room(self, why: str) -> None:
        """Waits a moment. Raises UserError where nothing is under way; why: what of the next request."""
        if not self.under_way:
            journal = self.journal
            held = f" and {dollars(journal.reserved)} reserved by open batches" if journal.reserved else ""
            raise UserError(
                f"the budget of {dollars(self.cap)} is used up: {dollars(journal.spent)} spent{held}, and the next "
                f"request {why}; what was answered is kept: raise config.budget.max_dollars and start again"
            )
        await self.sleep(_LOOK_AGAIN)

    def check(self) -> None:
        """Raises Stopped where the run is to stop."""
        if self.stopping.is_set():
            raise Stopped

    async def sleep(self, seconds: float) -> None:
        """Raises Stopped where the run is to stop, at once."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        self.check()


def dollars(picodollars: int) -> str:
    """For people, with cents, and more digits for less than that."""
    value = picodollars / PICODOLLARS
    return f"${value:.2f}" if value >= 0.1 or value == 0 else f"${value:.2g}"
