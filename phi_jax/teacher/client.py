"""One endpoint, asked live: POST /chat/completions until a request is answered or given up."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from phi_jax.errors import UserError
from phi_jax.progress import say
from phi_jax.teacher.budget import Budget
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Messages, Reply, Request, Status, Usage
from phi_jax.teacher.server.answers import Completion, Failure, read_completion, usable
from phi_jax.teacher.server.connection import Connection, pause
from phi_jax.teacher.server.dialect import Dialect

_LOOK_AGAIN = 0.02  # seconds until a request that waits for its turn looks again
_LONG_WAIT = 30.0  # seconds; the user is told
_DOUBTS = 48  # attempts of requests given up one after the other, after which it is not the requests but the server


class GivenUp:
    """Requests that were given up, held back until another is answered, which shows that they are to blame.

    Where none is answered, the server is to blame: an error ends the run, and they are asked again in the next.
    """

    def __init__(self, endpoint: Endpoint, journal: Journal) -> None:
        self._endpoint, self._journal = endpoint, journal
        self._held: list[tuple[str, Failure]] = []
        self._answered = False

    def add(self, key: str, failure: Failure) -> None:
        """A request was given up. Raises UserError where it is one too many."""
        if failure.kind == "unfit":  # the server has answered
            self._record(key, failure)
            return
        self._held.append((key, failure))
        if len(self._held) * self._endpoint.attempts >= _DOUBTS:
            raise self._down(failure)

    def answered(self) -> None:
        """A request was answered: those held back are recorded as poisoned."""
        self._answered = True
        for key, failure in self._held:
            self._record(key, failure)
        self._held = []

    def finish(self) -> None:
        """No request is left. Raises UserError where the last ones failed because of the server.

        Requests that it refused are to blame where it ever answered others.
        """
        for _, failure in self._held:
            refused = failure.kind == "refused" and self._journal.has_answers(self._endpoint.model)
            if failure.kind == "unreached" or not (self._answered or refused):
                raise self._down(failure)
        self.answered()

    def _record(self, key: str, failure: Failure) -> None:
        self._journal.conclude(key, Status.POISONED, "", failure.reason, self._endpoint.model)

    def _down(self, failure: Failure) -> UserError:
        name = self._endpoint.name
        where = f"teacher {name} ({self._endpoint.base_url})"
        if failure.kind == "unreached":
            return UserError(
                f"{where}: cannot be reached ({failure.reason}); check config.teachers.{name}.base_url and that the "
                "server runs, then start again"
            )
        return UserError(
            f"{where}: the server answers no request, the last of {len(self._held)} given up with: {failure.reason}; "
            "what was answered is kept, so put that right and start again"
        )


class Pace:
    """How many requests may be in flight, and until when none may be sent.

    A rate limit that says retry-after holds all requests back for that long. One that does not halves the number in
    flight, at most once for those sent together; each answer adds a little, one more for a round of answers.
    """

    def __init__(self, budget: Budget, most: int) -> None:
        self._budget, self._most = budget, most
        self.limit = float(most)
        self._in_flight = 0
        self._resume = self._halved = 0.0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """The block is entered when a request may be sent. Gives that moment. Raises Stopped."""
        while (delay := self._resume - time.monotonic()) > 0 or self._in_flight >= max(1, int(self.limit)):
            await self._budget.sleep(min(delay, 1.0) if delay > 0 else _LOOK_AGAIN)
        self._in_flight += 1
        try:
            yield time.monotonic()
        finally:
            self._in_flight -= 1

    def answered(self) -> None:
        """No limit turned a request away."""
        self.limit = min(self._most, self.limit + 1 / self.limit)

    def refused(self, wait: float | None, sent: float) -> None:
        """A limit turned a request away. wait: its retry-after, seconds. sent: what `turn` gave."""
        now = time.monotonic()
        if wait is not None:
            self._resume = max(self._resume, now + wait)
        elif sent >= self._halved:
            self.limit, self._halved = max(1.0, self.limit / 2), now


class Client:
    """Asks `endpoint`. An async context manager; `reply_to` may be called by any number of tasks of one event loop."""

    def __init__(self, endpoint: Endpoint, price: Price, budget: Budget) -> None:
        """Raises UserError where the endpoint's API key is not in the environment."""
        self._endpoint, self._price, self._budget = endpoint, price, budget
        self._connection = Connection(endpoint)
        self._dialect = Dialect(endpoint)
        self._pace = Pace(budget, endpoint.window)
        self.given_up = GivenUp(endpoint, budget.journal)
        self._say_again_at = 0.0
        self._said_unmetered = False

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._connection.__aexit__()

    async def reply_to(self, request: Request) -> Status:
        """Asks until there is a final outcome, and brings it into the journal.

        POISONED goes there with the next answer that another request gets, or with `given_up.finish`. Raises UserError
        where the server answers nobody or the budget is used up, Stopped where the run is to stop.
        """
        counted = times = 0
        correction: Messages = ()
        while True:
            outcome = await self._attempt(request, correction)
            if isinstance(outcome, Reply):
                self.given_up.answered()
                return outcome.status
            if outcome.kind == "fatal":
                raise UserError(outcome.reason)
            if outcome.kind == "unfit":
                self.given_up.answered()
                correction = outcome.correction
            times += 1
            counted += outcome.kind not in ("limited", "changed")
            if outcome.kind == "refused" or counted >= self._endpoint.attempts:
                self.given_up.add(request.key, outcome)
                return Status.POISONED
            if outcome.kind not in ("changed", "unfit"):
                await self._wait(pause(outcome, times), outcome.reason)

    async def _wait(self, seconds: float, reason: str) -> None:
        """Says so where it is long, but not for each request."""
        now = time.monotonic()
        if seconds >= _LONG_WAIT and now >= self._say_again_at:
            self._say_again_at = now + seconds
            say(f"teacher {self._endpoint.name}: waits {seconds:.0f} s ({reason})")
        await self._budget.sleep(seconds)

    async def _attempt(self, request: Request, correction: Messages) -> Reply | Failure:
        """One attempt: reserved before it is sent, settled or lost when this returns or raises."""
        reservation = self._price.reservation(request, correction, batch=False)
        async with self._pace.turn() as sent:
            attempt = await self._budget.begin(request, reservation)
            refused = self._dialect.refused
            try:
                answer = await self._send(self._dialect.body(request, correction))
            except BaseException:
                self._budget.end(attempt, cost=None, reason="stopped before the reply came")
                raise
        if isinstance(answer, Completion):
            self._pace.answered()
            return self._book(attempt, request, answer, reservation)
        self._budget.end(attempt, cost=None if answer.lost else 0, reason=answer.reason)
        if answer.kind == "limited":
            self._pace.refused(answer.wait, sent)
        if answer.kind == "refused" and self._dialect.learn(answer.reason, refused):
            return Failure("changed", answer.reason)
        return answer

    async def _send(self, body: dict[str, Any]) -> Completion | Failure:
        import httpx2

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

    def _book(self, attempt: int, request: Request, completion: Completion, reservation: int) -> Reply | Failure:
        """A chat completion arrived: it is paid for, whatever it holds."""
        cost, usage = reservation, completion.usage or Usage()
        if completion.usage is not None:
            cost = self._price.cost(usage, batch=False)
        elif not self._said_unmetered:
            self._said_unmetered = True
            say(
                f"teacher {self._endpoint.name}: the server reports no token usage; each reply is booked at its full "
                "reservation"
            )
        text = usable(request, completion)
        self._dialect.note_fit(request, Status.POISONED if isinstance(text, Failure) else completion.status)
        with self._budget.journal.transaction():
            if isinstance(text, Failure):
                self._budget.end(attempt, cost=cost, usage=usage, reason=text.reason)
                return text
            self._budget.end(attempt, cost=cost, usage=usage, reason=completion.reason)
            model = completion.model or self._endpoint.model
            return self._budget.journal.conclude(request.key, completion.status, text, completion.reason, model)
