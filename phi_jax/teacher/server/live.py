"""One endpoint, asked live: POST /chat/completions until each request is answered or given up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator

from phi_jax.progress import say
from phi_jax.teacher.budget import Budget
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.server.answers import Completion, Failure, read_completion
from phi_jax.teacher.server.connection import Connection, pause
from phi_jax.teacher.server.outcomes import Asked, Outcomes

_LOOK_AGAIN = 0.02  # seconds until a request that waits for its turn looks again
_LONG_WAIT = 30.0  # seconds; the user is told


class Live:
    """Asks `endpoint`. Raises UserError where its API key is not in the environment.

    The pace: at most `limit` requests are in flight. A rate limit that says retry-after holds all requests back for
    that long. One that does not halves the limit, at most once for those sent together; each answer raises it a little,
    by one for a round of answers.
    """

    def __init__(self, endpoint: Endpoint, price: Price, budget: Budget) -> None:
        self._endpoint, self._budget = endpoint, budget
        self._connection = Connection(endpoint)
        self._outcomes = Outcomes(endpoint, price, budget.journal, batch=False)
        self.limit = float(endpoint.window)
        self._in_flight = 0
        self._resume = self._halved = 0.0  # when requests may be sent again, and when the limit was halved

    async def ask(self, requests: Iterator[Request], on_outcome: Callable[[str, Status], None]) -> None:
        """Returns when each request has a reply in the journal; on_outcome is told of each (key, status).

        Raises UserError where the server answers nobody or the budget is used up, Stopped where the run is to stop.
        """

        async def worker() -> None:
            for request in requests:
                self._budget.check()
                on_outcome(request.key, await self._reply_to(request))

        async with self._connection:
            await asyncio.gather(*(self._budget.guard(worker()) for _ in range(self._endpoint.window)))
        self._budget.check()
        self._outcomes.finish()

    async def _reply_to(self, request: Request) -> Status:
        """POISONED goes into the journal with the next answer that another request gets, or at the end."""
        asked, times = Asked(request), 0
        outcome = self._outcomes.claim(request)
        while not isinstance(outcome, Reply):
            sent = self._outcomes.dialect.refused
            outcome = await self._attempt(asked)
            if isinstance(outcome, Failure):
                if not self._outcomes.again(asked, outcome, sent):
                    return Status.POISONED
                times += 1
                if outcome.kind not in ("refused", "unfit"):
                    await self._budget.sleep(pause(outcome, times))
        return outcome.status

    async def _attempt(self, asked: Asked) -> Reply | Failure:
        """One attempt: reserved before it is sent, settled or lost when this returns or raises."""
        most = self._outcomes.reservation(asked)
        await self._turn()
        began = time.monotonic()
        try:
            attempt = await self._budget.begin(asked.request, most)
            answer: Completion | Failure = Failure("failed", "stopped before the reply came", lost=True)
            try:
                answer = await self._send(asked)
            finally:
                self._budget.under_way -= 1
                with self._budget.journal.transaction():
                    self._outcomes.end(attempt, most, answer)
                    outcome = answer if isinstance(answer, Failure) else self._outcomes.take(asked.request, answer)
        finally:
            self._in_flight -= 1
        if isinstance(answer, Completion):
            self.limit = min(self._endpoint.window, self.limit + 1 / self.limit)
        elif answer.kind == "limited":
            self._limited(answer, began)
        return outcome

    async def _send(self, asked: Asked) -> Completion | Failure:
        import httpx2

        body = self._outcomes.dialect.body(asked.request, asked.correction)
        answer = await self._connection.call(
            lambda sdk: sdk.post("/chat/completions", cast_to=httpx2.Response, body=body), self._endpoint.timeout
        )
        if isinstance(answer, Failure):
            return answer
        try:
            content = json.loads(answer.content)
        except (ValueError, RecursionError):
            return Failure("failed", "the reply is no JSON", lost=True)
        return read_completion(content, self._connection.key)

    async def _turn(self) -> None:
        """Returns when a request may be sent, which is counted as in flight then. Raises Stopped."""
        while (delay := self._resume - time.monotonic()) > 0 or self._in_flight >= int(self.limit):
            await self._budget.sleep(min(delay, 1.0) if delay > 0 else _LOOK_AGAIN)
        self._in_flight += 1

    def _limited(self, failure: Failure, began: float) -> None:
        now = time.monotonic()
        if failure.wait is None:
            if began >= self._halved:
                self.limit, self._halved = max(1.0, self.limit / 2), now
            return
        if failure.wait >= _LONG_WAIT and now >= self._resume:
            say(f"teacher {self._endpoint.name}: waits {failure.wait:.0f} s ({failure.reason})")
        self._resume = max(self._resume, now + failure.wait)
