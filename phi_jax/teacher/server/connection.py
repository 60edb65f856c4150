"""The openai client of one endpoint. Its retries are off: each attempt is in the journal before it is sent."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from phi_jax.errors import UserError
from phi_jax.teacher.prices import Endpoint
from phi_jax.teacher.server.answers import Failure, one_line, read_failure, retry_after

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_CONNECT_SECONDS = 20.0

T = TypeVar("T")


def api_key(endpoint: Endpoint) -> str:
    """From the environment; "" where the endpoint wants none. Raises UserError where the variable holds no key."""
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise UserError(
            f"teacher {endpoint.name} ({endpoint.base_url}): the environment variable {endpoint.key_variable} "
            "is not set, or holds characters that no API key has; put the API key there, or set "
            f"config.teachers.{endpoint.name}.key_variable"
        )
    return key


def open_client(endpoint: Endpoint) -> AsyncOpenAI:
    """Raises UserError where the API key or the address is none."""
    import httpx2
    import openai

    key, timeout = api_key(endpoint) or "none", httpx2.Timeout(None, connect=_CONNECT_SECONDS)
    try:
        return openai.AsyncOpenAI(api_key=key, base_url=endpoint.base_url, max_retries=0, timeout=timeout)
    except (httpx2.InvalidURL, ValueError) as error:
        raise UserError(
            f"teacher {endpoint.name}: {endpoint.base_url!r} is no address ({error}); set "
            f"config.teachers.{endpoint.name}.base_url"
        ) from None


async def call(endpoint: Endpoint, sent: Awaitable[T], seconds: float) -> T | Failure:
    """What a call of the client returns; a Failure where the server errs, is not reached or takes too long."""
    import httpx2
    import openai

    key = api_key(endpoint)
    try:
        async with asyncio.timeout(seconds):
            return await sent
    except openai.APIStatusError as error:
        response = error.response
        return read_failure(endpoint, response.status_code, response.content, key, retry_after(response.headers))
    except TimeoutError:
        return Failure("failed", f"no whole reply within {seconds:g} s", lost=True)
    except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError) as error:
        cause = error.__cause__ or error
        # These are raised before a connection stands, so before anything is sent.
        unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol)
        what = "the server cannot be reached" if unsent else f"there is no whole reply: {type(cause).__name__}"
        return Failure("failed", one_line(f"{what}: {cause}", key), lost=not unsent)


def pause(failure: Failure, times: int) -> float:
    """Seconds until the next attempt: what the server asks for and a little, else full jitter below 1, 2, 4 to 32."""
    jitter = random.uniform(0.0, 0.5 * 2.0 ** min(times, 6))
    return jitter if failure.wait is None else failure.wait + 0.1 * jitter
