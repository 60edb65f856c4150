"""One endpoint, asked live: POST /chat/completions until each request is answered or given up; and what batches share.

That is: replies, money, and reasons to ask again or to give up.
"""

import asyncio
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator

from phi_jax.errors import UserError
from phi_jax.progress import note
from phi_jax.store.artifact import Json
from phi_jax.teacher.budget import Run, dollars
from phi_jax.teacher.prices import Endpoint, option_of
from phi_jax.teacher.request import Reply, Request, Status
from phi_jax.teacher.server.answers import Answer, Failure, api_key, call, open_client, pause, read_completion
from phi_jax.teacher.server.dialect import INSTEAD, body_of, fit, refused_parameter

_WHOLE = 100  # an attempt that counts; one that a rate limit turned away counts as a hundredth of it
_DOUBTS = 48  # attempts of requests given up one after the other, after which it is not the requests but the server
_LOOK_AGAIN = 0.02  # seconds until a request that waits for its turn looks again
_LONG_WAIT = 30.0  # seconds; the user is told


class Asker:
    """One endpoint: books what its answers cost, makes them replies, and decides which requests are asked again.

    Requests that are given up are held back until another is answered, which shows that they are to blame. Where none
    is answered, the server is to blame: an error ends the run, and they are asked again in the next.
    """

    def __init__(self, endpoint: Endpoint, run: Run) -> None:
        """Raises UserError where the endpoint's API key or address is none."""
        self._endpoint, self._run, self._journal = endpoint, run, run.journal
        self._batch = endpoint.mode == "batch"
        self._sdk, self._key = open_client(endpoint), api_key(endpoint)
        self._refused: set[str] = set()  # parameters that the server refused, which are no longer sent: keys of INSTEAD
        self._tries: Counter[str] = Counter()  # request -> its attempts in this run, in parts of _WHOLE
        self._forms: dict[str, set[str]] = {}  # request -> what was refused when it was last sent
        self._held: dict[str, Failure] = {}
        self._open: dict[str, str] = {}  # plan -> batch; see batch.py
        self._answered = self._fitted = False
        self._say_once = functools.cache(self._say)

    def _refuse_open(self) -> None:
        """Raises UserError where other batches than ours are open: their requests would be asked for a second time."""
        sql = "SELECT plan FROM batches WHERE NOT ended AND file IS NOT NULL AND model = ?"
        if {plan for (plan,) in self._journal.read(sql, self._endpoint.model)} - self._open.keys():
            place = f"config.teachers.{self._endpoint.name}"
            raise UserError(
                f"teacher {self._endpoint.name}: batches of an earlier run are still open; go on with "
                f"{place}.mode=batch and their base_url, or end them first with --cancel-batches"
            )

    def _next(self, request: Request) -> tuple[Json, int]:
        """The body of the request's next attempt, and the picodollars that it may cost at most."""
        self._forms[request.key] = {*self._refused}
        body = body_of(self._endpoint, request, self._refused, self._tries[request.key] // _WHOLE)
        return body, self._endpoint.price.reservation(request, batch=self._batch)

    def _end(self, attempt: int, answer: Answer | Failure) -> None:
        """Ends an attempt at what its answer cost."""
        if isinstance(answer, Failure):
            self._journal.end(attempt, cost=None if answer.lost else 0, reason=answer.reason)
            return
        *_, reason, _, usage = answer
        if usage is None:
            self._say_once(
                "each reply is booked at its full reservation from here on (the server reports no token usage)"
            )
        cost = None if usage is None else self._endpoint.price.cost(usage, batch=self._batch)
        self._journal.end(attempt, cost=cost, usage=usage or (0, 0, 0), reason=reason)

    def _take(self, request: Request, answer: Answer) -> Reply | Failure:
        """Makes a paid answer the reply of its request; a Failure where it does not answer it."""
        status, text, reason, model, _ = answer
        if status == "poisoned":
            return Failure("void", reason)
        self._answered = True
        self._give_up_held()
        if request.schema is not None and status == "answered":
            try:
                text = fit(text, request.schema)
                self._fitted = True
            except ValueError as error:
                return Failure("unfit", f"the reply does not fit the schema: {error}")
        return self._journal.conclude(request.key, status, text, reason, model or self._endpoint.model)

    def _claim(self, request: Request) -> Reply | Failure | None:
        """Takes the paid batch reply to this request that none has claimed yet; None where there is none."""
        with self._journal.transaction():
            sql = "DELETE FROM arrived WHERE key = ? RETURNING completion"
            for (completion,) in self._journal.write(sql, request.key).fetchall():
                status, text, reason, model = json.loads(completion).values()
                return self._take(request, (status, text, reason, model, None))
        return None

    def _again(self, request: Request, failure: Failure) -> bool:
        """Whether the request is to be asked again after this failure; else it is given up.

        Raises UserError where the server is to blame.
        """
        key, kind, mode = request.key, failure.kind, self._endpoint.json_mode
        if kind == "fatal":
            raise UserError(failure.reason)
        name, why = refused_parameter(failure.reason) if kind == "refused" else "", failure.reason
        if kind == "unfit" and mode != "text" and not self._fitted:
            name, why = "response_format", f"it does not hold replies to json_mode={mode}"
        if name:
            self._refuse(name, why)
            if self._forms.get(key, set()) != self._refused:
                return True
        self._tries[key] += 1 if kind == "limited" else _WHOLE
        # At temperature 0, the same request brings the same reply.
        same = kind in ("void", "unfit") and request.temperature == 0 and "temperature" not in self._refused
        if kind != "refused" and not same and self._tries[key] < self._endpoint.attempts * _WHOLE:
            if kind == "failed" and not self._answered:
                self._say_once(f"no answer yet, and asked again: {why}")
            return True
        self._held[key] = failure
        if kind == "unfit":  # the server has answered
            self._give_up_held()
        if sum(self._tries[key] for key in self._held) >= _DOUBTS * _WHOLE:
            raise self._down(failure)
        return False

    def _finish(self) -> None:
        """No request is left. Raises UserError where none was answered, so that the server is to blame.

        Requests that it refused, or gave nothing, are to blame where it answered others in an earlier run.
        """
        for failure in self._held.values():
            to_blame = failure.kind in ("refused", "void") and self._journal.has_answers(self._endpoint.model)
            if not (self._answered or to_blame):
                raise self._down(failure)
        self._give_up_held()

    def _give_up_held(self) -> None:
        for key, failure in self._held.items():
            self._journal.conclude(key, "poisoned", "", failure.reason, self._endpoint.model)
        self._held = {}

    def _refuse(self, name: str, why: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            self._say(f"{INSTEAD[name]} ({why})")

    def _say(self, what: str) -> None:
        note(f"teacher {self._endpoint.name}: {what}")

    def _down(self, failure: Failure) -> UserError:
        name = self._endpoint.name
        return UserError(
            f"teacher {name} ({self._endpoint.base_url}): the server answers no request, the last of {len(self._held)} "
            f"given up with: {failure.reason}; check {option_of(name, 'base_url')}, put that right and start again: "
            "what was answered is kept"
        )


class Live(Asker):
    """Asks `endpoint`. Raises UserError where its API key is not in the environment.

    The pace: at most `limit` requests are in flight. A 429 halves the limit, at most once for those sent together, and
    holds all requests back for as long as its retry-after says. Each answer raises the limit by one, so that a round
    of answers makes up for one halving, and a stray 429 costs little.
    """

    def __init__(self, endpoint: Endpoint, run: Run) -> None:
        super().__init__(endpoint, run)
        self.limit = endpoint.window
        self._in_flight = 0
        self._resume = self._halved = 0.0  # when requests may be sent again, and when the limit was halved

    async def ask(self, requests: Iterator[Request], on_outcome: Callable[[str, Status], None]) -> None:
        """Returns when each request has a reply in the journal; on_outcome is told of each (key, status).

        Raises UserError where the server answers nobody or the budget is used up, Preempted where the run is to stop.
        """
        self._refuse_open()

        async def worker() -> None:
            for request in requests:
                on_outcome(request.key, await self._reply_to(request))

        async with self._sdk:
            await asyncio.gather(*(self._run.guard(worker()) for _ in range(self._endpoint.window)))
        self._run.check()
        self._finish()

    async def _reply_to(self, request: Request) -> Status:
        """What is given up goes into the journal with the next answer that another request gets, or at the end."""
        times, outcome = 0, self._claim(request)
        while not isinstance(outcome, Reply):
            outcome = await self._attempt(request)
            if isinstance(outcome, Failure):
                if not self._again(request, outcome):
                    return "poisoned"
                times += 1
                if outcome.kind not in ("refused", "unfit"):
                    await self._run.sleep(pause(outcome, times))
        return outcome.status

    async def _attempt(self, request: Request) -> Reply | Failure:
        """One attempt: reserved before it is sent, settled or lost when this returns or raises."""
        await self._turn()
        began = time.monotonic()
        try:
            self._run.check()
            body, most = self._next(request)
            while (attempt := self._journal.begin(request, most, cap=self._run.cap)) is None:
                if not self._run.sent:  # else most of what they have reserved is free again in a moment
                    raise self._run.no_room(f"may cost {dollars(most)}")
                await self._run.sleep(_LOOK_AGAIN)
            self._run.sent += 1
            answer: Answer | Failure = Failure("failed", "stopped before the reply came", lost=True)
            try:
                sent = self._sdk.post("/chat/completions", cast_to=object, body=body)
                said = await call(self._endpoint, sent, self._endpoint.timeout)
                answer = said if isinstance(said, Failure) else read_completion(said, self._endpoint, self._key)
            finally:
                self._run.sent -= 1
                with self._journal.transaction():
                    self._end(attempt, answer)
                    outcome = answer if isinstance(answer, Failure) else self._take(request, answer)
        finally:
            self._in_flight -= 1
        if not isinstance(answer, Failure):
            self.limit = min(self._endpoint.window, self.limit + 1)
        elif answer.kind == "limited":
            self._slow_down(answer, began)
        return outcome

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
