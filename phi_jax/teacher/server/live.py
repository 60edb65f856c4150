"""One endpoint, asked live: POST /chat/completions until each request is answered or given up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator

from phi_jax.teacher.budget import Run
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.server.answers import Answer, Failure, read_completion
from phi_jax.teacher.server.asker import Asker
from phi_jax.teacher.server.connection import api_key, call, pause

_LOOK_AGAIN = 0.02  # seconds until a request that waits for its turn looks again
_LONG_WAIT = 30.0  # seconds; the user is told


class Live(Asker):
    """Asks `endpoint`. Raises UserError where its API key is not in the environment.

    The pace: at most `limit` requests are in flight. A 429 halves the limit, at most once for those sent together, and
    holds all requests back for as long as its retry-after says. Each answer raises the limit by one, so that a round
    of answers makes up for one halving, and a stray 429 costs little.
    """

    def __init__(self, endpoint: Endpoint, price: Price, run: Run) -> None:
        super().__init__(endpoint, price, run)
        self.limit = endpoint.window
        self._in_flight = 0
        self._resume = self._halved = 0.0  # when requests may be sent again, and when the limit was halved

    async def ask(self, requests: Iterator[Request], on_outcome: Callable[[str, Status], None]) -> None:
        """Returns when each request has a reply in the journal; on_outcome is told of each (key, status).

        Raises UserError where the server answers nobody or the budget is used up, Preempted where the run is to stop.
        """

        async def worker() -> None:
            for request in requests:
                self._run.check()
                on_outcome(request.key, await self._reply_to(request))

        async with self._sdk:
            await asyncio.gather(*(self._run.guard(worker()) for _ in range(self._endpoint.window)))
        self._run.check()
        self._finish()

    async def _reply_to(self, request: Request) -> Status:
        """POISONED goes into the journal with the next answer that another request gets, or at the end."""
        times, outcome = 0, self._claim(request)
        while not isinstance(outcome, Reply):
            outcome = await self._attempt(request)
            if isinstance(outcome, Failure):
                if not self._again(request, outcome):
                    return Status.POISONED
                times += 1
                if outcome.kind not in ("refused", "unfit"):
                    await self._run.sleep(pause(outcome, times))
        return outcome.status

    async def _attempt(self, request: Request) -> Reply | Failure:
        """One attempt: reserved before it is sent, settled or lost when this returns or raises."""
        most = self._reservation(request)
        await self._turn()
        began = time.monotonic()
        try:
            attempt = self._run.begin(request, most)
            answer: Answer | Failure = Failure("failed", "stopped before the reply came", lost=True)
            try:
                answer = await self._send(request)
            finally:
                with self._journal.transaction():
                    self._end(attempt, most, answer)
                    outcome = answer if isinstance(answer, Failure) else self._take(request, answer)
        finally:
            self._in_flight -= 1
        if not isinstance(answer, Failure):
            self.limit = min(self._endpoint.window, self.limit + 1)
        elif answer.kind == "limited":
            self._slow_down(answer, began)
        return outcome

    async def _send(self, request: Request) -> Answer | Failure:
        import httpx2

        sent = self._sdk.post("/chat/completions", cast_to=httpx2.Response, body=self._body(request))
        answer = await call(self._endpoint, sent, self._endpoint.timeout)
        if isinstance(answer, Failure):
            return answer
        try:
            content = json.loads(answer.content)
        except (ValueError, RecursionError):
            return Failure("failed", "the reply is no JSON", lost=True)
        return read_completion(content, api_key(self._endpoint))

    async def _turn(self) -> None:
        """Returns when a request may be sent, which is counted as in flight then. Raises Preempted."""
        while (delay := self._resume - time.monotonic()) > 0 or self._in_flight >= self.limit:
            await self._run.sleep(min(delay, 1.0) if delay > 0 else _LOOK_AGAIN)
        self._in_flight += 1

    def _slow_down(self, failure: Failure, began: float) -> None:
        """After a 429 to a request that was sent at `began`."""
        now = time.monotonic()
        if began >= self._halved:
            self.limit, self._halved = max(1, self.limit // 2), now
        if failure.wait is None:
            return
        if failure.wait >= _LONG_WAIT and now >= self._resume:
            self._say(f"waits {failure.wait:.0f} s ({failure.reason})")
        self._resume = max(self._resume, now + failure.wait)
