"""The openai client of one endpoint. Its retries are off: each attempt is in the journal before it is sent."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from phi_jax.errors import UserError
from phi_jax.teacher.request import Endpoint
from phi_jax.teacher.server.answers import Failure, one_line, read_failure, retry_after

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_CONNECT_SECONDS = 20.0
_SECONDS = 600.0  # that a call of `insist` may take
_TRIES = 8  # of it in a row, beside those that a rate limit turned away
BACKOFF = (0.5, 30.0)  # seconds: full jitter below 0.5, 1, 2, ..., 30

T = TypeVar("T")


def api_key(endpoint: Endpoint) -> str:
    """From the environment; "" where the endpoint wants none. Raises UserError where the variable holds no key."""
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        problem = "holds characters that no API key has" if key else "is not set"
        raise UserError(
            f"teacher {endpoint.name} ({endpoint.base_url}): the environment variable {endpoint.key_variable} "
            f"{problem}; put the API key there, or set config.teachers.{endpoint.name}.key_variable"
        )
    return key


def open_client(endpoint: Endpoint) -> AsyncOpenAI:
    """Raises UserError where the API key or the address is none."""
    import httpx2
    import openai

    limits = httpx2.Limits(max_connections=endpoint.window, max_keepalive_connections=endpoint.window)
    http = openai.DefaultAioHttpClient(timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS), limits=limits)
    key = api_key(endpoint) or "none"
    try:
        return openai.AsyncOpenAI(api_key=key, base_url=endpoint.base_url, max_retries=0, http_client=http)
    except (httpx2.InvalidURL, ValueError) as error:
        raise UserError(
            f"teacher {endpoint.name}: {endpoint.base_url!r} is no address ({error}); set "
            f"config.teachers.{endpoint.name}.base_url"
        ) from None


async def call(endpoint: Endpoint, sent: Awaitable[T], seconds: float) -> T | Failure:
    """What a call of the client returns; a Failure where the server errs, is not reached or takes too long."""
    import aiohttp
    import httpx2
    import openai

    # Raised before a connection stands, so before anything is sent. ConnectTimeout is not among them: openai raises it
    # with aiohttp for connections that were reset after sending, too.
    unreached = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL,
                 httpx2.InvalidURL, httpx2.UnsupportedProtocol)  # fmt: skip
    key = api_key(endpoint)
    try:
        async with asyncio.timeout(seconds):
            return await sent
    except openai.APIStatusError as error:
        response = error.response
        return read_failure(endpoint, response.status_code, response.content, key, retry_after(response.headers))
    except TimeoutError:
        return Failure("failed", f"no whole reply within {seconds:g} s", lost=True)
    except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, unreached):
            cause = cause.__cause__
        if isinstance(cause, unreached):
            return Failure("failed", one_line(f"the server cannot be reached: {cause}", key))
        return Failure("failed", one_line(f"the connection broke: {type(cause).__name__}: {cause}", key), lost=True)


async def insist(endpoint: Endpoint, send: Callable[[], Awaitable[T]], sleep: Callable[[float], Awaitable[None]]) -> T:
    """What a call that costs nothing returns; it is repeated until it is answered.

    sleep: waits, and raises where the run is to stop. Raises UserError where the server is not reached, or refuses
    the key, the model or the quota; Failure where it refuses this call.
    """
    tries = times = 0
    while isinstance(answer := await call(endpoint, send(), _SECONDS), Failure):
        if answer.kind == "fatal":
            raise UserError(answer.reason)
        if answer.kind == "refused":
            raise answer
        times += 1
        tries += answer.kind != "limited"
        if tries >= _TRIES:
            raise UserError(
                f"teacher {endpoint.name} ({endpoint.base_url}): the Batch API gives no answer ({answer.reason}); "
                f"check config.teachers.{endpoint.name}.base_url, and start again to go on where this stopped"
            )
        await sleep(pause(answer, times))
    return answer


def pause(failure: Failure, times: int) -> float:
    """Seconds until the next attempt: what the server asks for and a little, else full jitter that doubles."""
    first, most = BACKOFF
    jitter = random.uniform(0.0, min(most, first * 2.0 ** min(times - 1, 20)))
    return jitter if failure.wait is None else failure.wait + 0.1 * jitter
