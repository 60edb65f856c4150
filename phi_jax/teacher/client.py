"""One endpoint, asked live: POST /chat/completions until a request is answered or given up.

The openai client carries the requests; its retries are off, so that each attempt is in the journal before it is sent
and each refusal is seen by the rates.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from phi_jax import progress
from phi_jax.errors import UserError
from phi_jax.teacher import structured
from phi_jax.teacher.budget import Purse, Stop
from phi_jax.teacher.completion import Completion, one_line, read_completion
from phi_jax.teacher.failures import Doubts, Failure, Kind, read_failure, without_key
from phi_jax.teacher.journal import NOTHING_USED
from phi_jax.teacher.prices import Price
from phi_jax.teacher.rates import LONGEST_WAIT, Rates, retry_after
from phi_jax.teacher.request import Endpoint, Reply, Request, Status, Usage
from phi_jax.teacher.structured import Misfit, Rung

if TYPE_CHECKING:
    import httpx2

_CONNECT_SECONDS = 20.0
_BACKOFF = (0.5, 30.0)  # seconds: full jitter below 0.5, 1, 2, ..., 30
_LONG_WAIT = 30.0  # seconds; the user is told
_PROBES = 3  # tries at one rung before the next: one bad reply shows nothing


def api_key(endpoint: Endpoint) -> str:
    """From the environment; "" where the endpoint wants none. Raises UserError where the variable is not set."""
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key:
        raise UserError(
            f"teacher {endpoint.name} ({endpoint.base_url}): the environment variable {endpoint.key_variable} is not "
            f"set; put the API key there, or set config.teachers.{endpoint.name}.key_variable"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"teacher {endpoint.name} ({endpoint.base_url}): the environment variable {endpoint.key_variable} holds "
            "characters that no API key has; set it anew"
        )
    return key


class Client:
    """Asks `endpoint`. An async context manager; `reply_to` may be called by any number of tasks of one event loop."""

    def __init__(self, endpoint: Endpoint, price: Price, purse: Purse, stop: Stop) -> None:
        """Raises UserError where the endpoint's API key is not in the environment."""
        self._endpoint, self._price, self._purse, self._stop = endpoint, price, purse, stop
        self._key = api_key(endpoint)
        self._rates = Rates()
        self._gate = asyncio.Lock()  # those who wait for the rates go in turn
        self._doubts = Doubts(endpoint)
        self._rung: Rung | None = None
        self._probing = asyncio.Lock()
        self._limit_as = "max_tokens"
        self._said_unmetered = False
        self._say_again_at = 0.0
        self._random = random.Random()

    async def __aenter__(self) -> Client:
        import aiohttp
        import httpx2
        import openai

        window = self._endpoint.window
        limits = httpx2.Limits(max_connections=window, max_keepalive_connections=window)
        http = openai.DefaultAioHttpClient(timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS), limits=limits)
        try:
            self._sdk = openai.AsyncOpenAI(
                api_key=self._key or "none", base_url=self._endpoint.base_url, max_retries=0, http_client=http
            )
        except (httpx2.InvalidURL, ValueError) as error:
            raise UserError(
                f"teacher {self._endpoint.name}: {self._endpoint.base_url!r} is no address ({error}); set "
                f"config.teachers.{self._endpoint.name}.base_url"
            ) from None
        self._raw = httpx2.Response
        self._status_error = openai.APIStatusError
        self._transport_errors = (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError)
        # Raised before a connection stands, so before anything is sent.
        self._unreached = (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
            httpx2.InvalidURL,
            httpx2.UnsupportedProtocol,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sdk.close()

    async def reply_to(self, request: Request) -> Reply:
        """Asks until there is a final outcome, and brings it into the journal.

        An outcome POISONED goes there with the next answer that another request gets, or with `finish`. Raises
        UserError where the server answers nobody or the budget is used up, Stopped where the run is to stop.
        """
        rung = Rung.PROMPT if request.schema is None else await self.rung()
        asked = dataclasses.replace(request, messages=structured.messages_on(rung, request))

        def read(completion: Completion) -> str:
            return completion.text if request.schema is None else structured.fit(completion.text, request.schema)

        outcome = await self._ask(request, asked, rung, read, keep=True)
        if isinstance(outcome, Reply):
            return outcome
        reply = self._final(request, Status.POISONED, "", outcome.reason)
        if outcome.kind is Kind.UNFIT:  # the server has answered
            await self._record([reply])
        else:
            self._doubts.add(reply, outcome)
        return reply

    async def finish(self) -> None:
        """No request is left. Raises UserError where the last ones failed because the server is down."""
        await self._record(self._doubts.end())

    async def rung(self) -> Rung:
        """How JSON is asked for here: what the journal remembers, else what a probe finds, which is then printed."""
        async with self._probing:
            if self._rung is None:
                place = (self._purse.journal, self._endpoint.base_url, self._endpoint.model)
                rung = await structured.remembered(*place)
                if rung is None:
                    rung = await self._probe()
                    await structured.remember(*place, rung)
                progress.say(f"teacher {self._endpoint.name}: {self._endpoint.model} is asked for JSON by {rung.value}")
                self._rung = rung
            return self._rung

    # --- Probing ---------------------------------------------------------------------------------------------

    async def _probe(self) -> Rung:
        """The first rung that holds. On the first the schema is not in the prompt, so that a server which takes
        response_format and ignores it answers with prose and is found out.
        """
        from pydantic import BaseModel, ConfigDict

        class Probe(BaseModel):
            model_config = ConfigDict(extra="forbid")
            is_a_probe: bool
            even_number: bool

        reached = False
        for rung, wanted in ((Rung.JSON_SCHEMA, Probe), (Rung.JSON_OBJECT, None), (Rung.PROMPT, None)):
            if rung is Rung.PROMPT and reached:
                break
            text = "Say hello to the class in one sentence." if wanted else "Is 7 an even number? Is this a probe?"
            for seed in range(_PROBES):
                probe = Request(
                    self._endpoint.model, (("user", text),), 1000, 0.0, seed, Probe, f"probe of {rung.value}"
                )
                asked = dataclasses.replace(probe, messages=structured.messages_on(rung, probe))
                outcome = await self._ask(probe, asked, rung, lambda completion: completion.text, keep=False)
                if isinstance(outcome, Failure):
                    if outcome.kind is Kind.UNREACHED or rung is Rung.PROMPT:
                        raise self._doubts.down(outcome)
                    break
                reached = True
                if rung is Rung.PROMPT or structured.fits_untouched(outcome.text, wanted):
                    return rung
        return Rung.PROMPT

    # --- Attempts --------------------------------------------------------------------------------------------

    async def _ask(
        self, request: Request, asked: Request, rung: Rung, read: Callable[[Completion], str], *, keep: bool
    ) -> Reply | Failure:
        """Attempts at `request`, sent as `asked`, until there is a final reply or they are used up.

        keep: whether the reply goes into the journal.
        """
        counted = turned_away = 0
        messages = asked.messages
        while True:
            outcome = await self._attempt(request, asked, rung, read, keep=keep)
            if isinstance(outcome, Reply):
                await self._record(self._doubts.clear())
                return outcome
            if isinstance(outcome, _Unfit):
                await self._record(self._doubts.clear())
                counted += 1
                asked = dataclasses.replace(
                    asked, messages=messages + structured.correction(outcome.text, outcome.misfit)
                )
                failure = Failure(Kind.UNFIT, f"the reply does not fit the schema: {outcome.misfit}")
            else:
                failure = outcome
                if failure.kind is Kind.REFUSED:
                    return failure
                counted += failure.kind in (Kind.FAILED, Kind.UNREACHED)
                turned_away += failure.kind is Kind.LIMITED
            if counted >= self._endpoint.attempts:
                return failure
            if failure.kind not in (Kind.RENAMED, Kind.UNFIT):
                await self._wait(self._pause(failure, counted + turned_away), failure)

    def _pause(self, failure: Failure, times: int) -> float:
        """Seconds: full jitter, doubling; where the server asks to wait, that long and a little jitter."""
        first, most = _BACKOFF
        jitter = self._random.uniform(0.0, min(most, first * 2.0 ** min(times - 1, 20)))
        if failure.wait is None:
            return jitter
        return min(failure.wait, LONGEST_WAIT) + min(jitter, max(0.2, 0.1 * failure.wait))

    async def _wait(self, seconds: float, failure: Failure) -> None:
        """Says so where it is long, but not for each request."""
        now = time.monotonic()
        if seconds >= _LONG_WAIT and now >= self._say_again_at:
            self._say_again_at = now + seconds
            progress.say(f"teacher {self._endpoint.name}: waits {seconds:.0f} s ({failure.reason})")
        await self._stop.sleep(seconds)

    async def _attempt(
        self, request: Request, asked: Request, rung: Rung, read: Callable[[Completion], str], *, keep: bool
    ) -> Reply | Failure | _Unfit:
        """One attempt: reserved before it is sent, settled or lost when this returns or raises."""
        reservation = self._price.reservation(asked, batch=False)
        tokens = asked.max_tokens + sum(len(content) for _, content in asked.messages) // 4
        await self._turn(tokens)
        try:
            attempt = await self._purse.begin(request, reservation)
            limit_as = self._limit_as
            response = await self._exchange(attempt, structured.request_body(asked, rung, limit_as=limit_as))
        finally:
            self._rates.done(tokens)
        if isinstance(response, Failure):
            return response
        if response.status_code >= 300:
            return await self._failed(attempt, response, limit_as)
        self._rates.answered(_headers(response))
        try:
            completion = read_completion(json.loads(response.content))
        except (ValueError, RecursionError) as error:
            reason = one_line(str(error)) if str(error).startswith("the reply is") else "the reply is no JSON"
            await self._purse.lose(attempt, reason)
            return Failure(Kind.FAILED, reason)
        return await self._paid(attempt, request, completion, reservation, read, keep=keep)

    async def _turn(self, tokens: int) -> None:
        async with self._gate:
            while (delay := self._rates.delay(tokens)) > 0:
                await self._stop.sleep(min(delay, 1.0))
            self._rates.take(tokens)

    async def _exchange(self, attempt: int, body: dict[str, Any]) -> httpx2.Response | Failure:
        """The server's whole answer, of whatever status. Where there is none, the attempt is ended here."""
        seconds = self._endpoint.timeout
        try:
            async with self._stop.within(seconds):
                return await self._sdk.post("/chat/completions", cast_to=self._raw, body=body)
        except self._status_error as error:
            return error.response
        except TimeoutError:
            reason = "stopped by a signal" if self._stop.urgent else f"no whole reply within {seconds:g} s"
            failure = Failure(Kind.FAILED, reason)
        except self._transport_errors as error:
            failure = self._broken(error)
        except BaseException:
            await asyncio.shield(self._purse.lose(attempt, "cancelled"))
            raise
        if failure.kind is Kind.UNREACHED:
            await self._purse.settle(attempt, cost=0, reason=failure.reason)
        else:
            await self._purse.lose(attempt, failure.reason)
        return failure

    def _broken(self, error: BaseException) -> Failure:
        """Of a connection that was not made, or that broke."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, self._unreached):
                return Failure(Kind.UNREACHED, one_line(without_key(str(cause), self._key)))
            last, cause = cause, cause.__cause__
        said = str(last)
        reason = f"the connection broke: {type(last).__name__}{f': {said}' if said else ''}"
        return Failure(Kind.FAILED, one_line(without_key(reason, self._key)))

    async def _failed(self, attempt: int, response: httpx2.Response, limit_as: str) -> Failure:
        """An HTTP error: it cost nothing. Raises UserError for one that all requests would meet."""
        reason = f"HTTP {response.status_code}"
        try:
            failure = read_failure(self._endpoint, response.status_code, response.content, self._key)
            reason = failure.reason
        finally:
            await self._purse.settle(attempt, cost=0, reason=reason)
        headers = _headers(response)
        wait = retry_after(headers, time.time())
        if failure.kind is Kind.LIMITED:
            self._rates.refused(headers, wait)
        else:
            self._rates.answered(headers)
        if limit_as == "max_tokens" and "max_completion_tokens" in reason:
            self._limit_as = "max_completion_tokens"
            return dataclasses.replace(failure, kind=Kind.RENAMED)
        return dataclasses.replace(failure, wait=wait)

    async def _paid(
        self,
        attempt: int,
        request: Request,
        completion: Completion,
        reservation: int,
        read: Callable[[Completion], str],
        *,
        keep: bool,
    ) -> Reply | _Unfit:
        """A chat completion arrived: it is paid for, whatever it holds."""
        completion = dataclasses.replace(
            completion, text=self._blotted(completion.text), reason=self._blotted(completion.reason)
        )
        usage = completion.usage
        if usage is None:
            cost, usage = reservation, Usage()
            self._say_unmetered()
        else:
            cost = self._price.cost(usage, batch=False)
        text = completion.text
        if completion.status is Status.ANSWERED:
            try:
                text = read(completion)
            except Misfit as misfit:
                await self._purse.settle(attempt, cost=cost, usage=usage, reason=f"does not fit the schema: {misfit}")
                return _Unfit(completion.text, misfit)
        model = self._blotted(completion.model)
        reply = self._final(
            request, completion.status, text, completion.reason, model, cost=cost, usage=usage, attempts=1
        )
        await self._purse.settle(
            attempt, cost=cost, usage=usage, reason=completion.reason, reply=reply if keep else None
        )
        return reply

    def _final(
        self,
        request: Request,
        status: Status,
        text: str,
        reason: str,
        model: str = "",
        *,
        cost: int = 0,
        usage: Usage = NOTHING_USED,
        attempts: int = 0,
    ) -> Reply:
        """The outcome, with what earlier attempts cost added to what this one did."""
        before, used, paid = self._purse.journal.history(request.key)
        total = Usage(
            used.prompt + usage.prompt,
            used.completion + usage.completion,
            used.cached + usage.cached,
            used.reasoning + usage.reasoning,
        )
        return Reply(
            request.key, status, text, reason, model or self._endpoint.model, total, paid + cost, before + attempts
        )

    async def _record(self, poisoned: list[Reply]) -> None:
        for reply in poisoned:
            await self._purse.journal.poison(reply)

    def _blotted(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _say_unmetered(self) -> None:
        if not self._said_unmetered:
            self._said_unmetered = True
            progress.say(
                f"teacher {self._endpoint.name}: the server reports no token usage; each reply is booked at its full "
                "reservation"
            )


@dataclasses.dataclass(frozen=True)
class _Unfit:
    """A reply that was paid for and does not fit the schema."""

    text: str
    misfit: Misfit


def _headers(response: httpx2.Response) -> dict[str, str]:
    """By names in lower case. A look-up in httpx2's own mapping goes through all of them."""
    return {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers.raw}
