"""The Batch API of an OpenAI-compatible server: files and batches, each call repeated until it is answered."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

from phi_jax.errors import UserError
from phi_jax.teacher.client import api_key
from phi_jax.teacher.completion import one_line
from phi_jax.teacher.failures import Failure, Kind, read_failure, without_key
from phi_jax.teacher.rates import LONGEST_WAIT, retry_after
from phi_jax.teacher.request import Endpoint

if TYPE_CHECKING:
    from openai.types import Batch

ENDED = ("completed", "failed", "expired", "cancelled")
_PLAN = "phi_jax_plan"  # in a batch's metadata
_TRIES = 8  # of one call in a row, beside those that a rate limit turned away
_BACKOFF = (0.5, 30.0)  # seconds: full jitter below 0.5, 1, 2, ..., 30
_SECONDS = (600.0, 20.0)  # that one call, and its connection, may take

T = TypeVar("T")


class Declined(Exception):
    """The server does not do this, however often it is asked. The text is its reason."""


class BatchApi:
    """An async context manager. sleep: waits, and raises where the run is to stop.

    Methods raise UserError where the server is not reached, or refuses the key, the model or the quota; Declined where
    it refuses this call.
    """

    def __init__(self, endpoint: Endpoint, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._endpoint, self._sleep = endpoint, sleep
        self.key = api_key(endpoint)

    async def __aenter__(self) -> BatchApi:
        import aiohttp
        import httpx2
        import openai

        whole, connect = _SECONDS
        timeout = httpx2.Timeout(whole, connect=connect)
        self._sdk = openai.AsyncOpenAI(
            api_key=self.key or "none",
            base_url=self._endpoint.base_url,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAioHttpClient(timeout=timeout),
        )
        self._status_error = openai.APIStatusError
        self._transport_errors = (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError, TimeoutError)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sdk.close()

    async def upload(self, lines: IO[bytes], name: str) -> str:
        """The input file of a batch; returns its id."""

        async def call() -> str:
            lines.seek(0)
            return (await self._sdk.files.create(file=(name, lines), purpose="batch")).id

        return await self._answered(call)

    async def create(self, file: str, plan: str) -> str:
        """Makes the batch of this plan, or finds the one that a call without an answer made; returns its id."""
        sent = False

        async def call() -> str:
            nonlocal sent
            if sent and (made := await self._find(plan)) is not None:
                return made
            sent = True
            batch = await self._sdk.batches.create(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=file,
                metadata={_PLAN: plan},
                extra_headers={"Idempotency-Key": plan},
            )
            return batch.id

        return await self._answered(call)

    async def find(self, plan: str) -> str | None:
        """The id of the batch of this plan, if the server has one."""
        return await self._answered(lambda: self._find(plan))

    async def show(self, batch: str) -> Batch:
        return await self._answered(lambda: self._sdk.batches.retrieve(batch))

    async def cancel(self, batch: str) -> None:
        """Asks for the end of a batch, whatever its state."""
        try:
            await self._answered(lambda: self._sdk.batches.cancel(batch))
        except Declined:
            if (await self.show(batch)).status not in (*ENDED, "cancelling"):
                raise

    async def delete(self, file: str) -> None:
        """A file that is not there is as good."""
        try:
            await self._answered(lambda: self._sdk.files.delete(file))
        except Declined as error:
            if not str(error).startswith("HTTP 404"):
                raise

    async def content(self, file: str) -> IO[bytes]:
        """A temporary file with the whole content, at its beginning; the caller closes it."""

        async def call() -> IO[bytes]:
            with contextlib.ExitStack() as stack:
                copy = stack.enter_context(tempfile.TemporaryFile())
                async with self._sdk.files.with_streaming_response.content(file) as response:
                    async for block in response.iter_bytes(1 << 20):
                        copy.write(block)
                copy.seek(0)
                stack.pop_all()
            return copy

        return await self._answered(call)

    async def _find(self, plan: str) -> str | None:
        async for batch in self._sdk.batches.list(limit=100):
            if (batch.metadata or {}).get(_PLAN) == plan:
                return batch.id
        return None

    async def _answered(self, call: Callable[[], Awaitable[T]]) -> T:
        tries = times = 0
        while True:
            try:
                return await call()
            except self._status_error as error:
                content = error.response.content if error.response.is_closed else await error.response.aread()
                failure = read_failure(self._endpoint, error.status_code, content, self.key)
                wait = retry_after(error.response.headers, time.time())
            except self._transport_errors as error:
                failure, wait = self._broken(error), None
            if failure.kind is Kind.REFUSED:
                raise Declined(failure.reason)
            times += 1
            tries += failure.kind is not Kind.LIMITED
            if tries >= _TRIES:
                name = self._endpoint.name
                raise UserError(
                    f"teacher {name} ({self._endpoint.base_url}): the Batch API gives no answer ({failure.reason}); "
                    f"check config.teachers.{name}.base_url, and start again to go on where this stopped"
                )
            first, most = _BACKOFF
            jitter = random.uniform(0.0, min(most, first * 2.0 ** min(times - 1, 20)))
            await self._sleep(jitter if wait is None else min(wait, LONGEST_WAIT) + 0.1 * jitter)

    def _broken(self, error: BaseException) -> Failure:
        cause = error.__cause__ or error
        said: Any = str(cause) or str(error)
        reason = f"the connection broke: {type(cause).__name__}: {said}"
        return Failure(Kind.FAILED, one_line(without_key(reason, self.key)))
