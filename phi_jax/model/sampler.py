"""Batched completion with a KV cache: greedy, or temperature and top-p.

Shapes are static: prompts are padded to the right up to a power of two, a partial batch is filled with copies, and
tokens are decoded in segments of fixed length. So there is one compilation a bucket, and a row is computed in the
same way whatever stands beside it. A draw is keyed by (seed, prompt, sample, position), never by the batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phi_jax.model import phi

SEGMENT = 16  # tokens decoded between two looks at the stop strings
SMALLEST_BUCKET = 32  # tokens


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the next token is chosen."""

    temperature: float = 0.0  # 0 = greedy: the most probable token, the lowest id among equals
    top_p: float = 1.0  # draws come from the smallest set of tokens that holds this much probability
    seed: int = 0

    def __str__(self) -> str:
        return "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}, top_p {self.top_p:g}"


class Request(NamedTuple):
    """One completion to make. (prompt, sample) keys its draws, so it comes out the same in any batch."""

    tokens: Sequence[int]
    prompt: int = 0  # number of the prompt
    sample: int = 0  # number of the sample of that prompt


class Completion(NamedTuple):
    """What was decoded, without the end-of-text token."""

    tokens: list[int]
    stop_reason: str  # "end_of_text", "stop" (the caller's test held) or "length"


class Sampler:
    """Completes prompts in batches of `batch_size` rows with one model."""

    def __init__(
        self,
        params: phi.Params,
        config: phi.PhiConfig,
        *,
        end_of_text_id: int,
        max_new_tokens: int,
        batch_size: int,
        decoding: Decoding,
    ) -> None:
        self._params = jax.tree.map(jnp.asarray, params)
        self._config = config
        self._end_of_text_id = end_of_text_id
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        self._decoding = decoding

    def complete(
        self, requests: Sequence[Request], stopped: Callable[[Request, list[int]], bool] = lambda request, tokens: False
    ) -> Iterator[Completion]:
        """Yields a completion a request, in order.

        stopped: asked between segments with a request and the tokens decoded for it so far; true ends the row early (what was decoded
        past the stop is the caller's to cut). Raises ValueError for a prompt that is empty, or too long for the
        model's context together with max_new_tokens.
        """
        for request in requests:
            longest = self._config.max_seq_len - self._max_new_tokens
            if not 0 < len(request.tokens) <= longest:
                raise ValueError(
                    f"prompt {request.prompt}: {len(request.tokens)} tokens; with {self._max_new_tokens} new ones "
                    f"a context of {self._config.max_seq_len} takes 1 to {longest}"
                )
        for start in range(0, len(requests), self._batch_size):
            yield from self._complete_batch(requests[start : start + self._batch_size], stopped)

    def _complete_batch(
        self, requests: Sequence[Request], stopped: Callable[[Request, list[int]], bool]
    ) -> list[Completion]:
        live = len(requests)
        rows = [*requests, *[requests[-1]] * (self._batch_size - live)]
        bucket = _bucket(max(len(r.tokens) for r in rows))
        prompts_BxP = np.full((self._batch_size, bucket), self._end_of_text_id, np.int32)
        for row, request in enumerate(rows):
            prompts_BxP[row, : len(request.tokens)] = request.tokens
        lengths_B = jnp.array([len(r.tokens) for r in rows], jnp.int32)
        root = jax.random.key(self._decoding.seed)
        keys_B = jax.vmap(lambda p, s: jax.random.fold_in(jax.random.fold_in(root, p), s))(
            jnp.array([r.prompt for r in rows]), jnp.array([r.sample for r in rows])
        )
        segments = -(-self._max_new_tokens // SEGMENT)
        last_B, cache = _prefill(
            self._params, prompts_BxP, lengths_B, keys_B, self._config, self._decoding, bucket + segments * SEGMENT
        )
        decoded: list[list[int]] = [[] for _ in rows]
        reasons = [""] * len(rows)
        for segment in range(segments):
            new_BxG, last_B, cache = _decode_segment(
                self._params, last_B, lengths_B + segment * SEGMENT, keys_B, cache, self._config, self._decoding
            )
            for row, tokens in enumerate(np.asarray(new_BxG).tolist()):
                if not reasons[row]:
                    reasons[row] = self._extend(rows[row], decoded[row], tokens, stopped)
            if all(reasons[:live]):
                break
        return [Completion(decoded[i], reasons[i] or "length") for i in range(live)]

    def _extend(
        self,
        request: Request,
        decoded: list[int],
        new: list[int],
        stopped: Callable[[Request, list[int]], bool],
    ) -> str:
        """Appends a segment; returns why the row has ended, or an empty string."""
        for token in new:
            if token == self._end_of_text_id:
                return "end_of_text"
            decoded.append(token)
            if len(decoded) == self._max_new_tokens:
                return "stop" if stopped(request, decoded) else "length"
        return "stop" if stopped(request, decoded) else ""


def choose(logits_BxV: jax.Array, keys_B: jax.Array, positions_B: jax.Array, decoding: Decoding) -> jax.Array:
    """The next token of each row, int32 [B]. keys_B: one key a row; the position is folded in."""
    if decoding.temperature == 0:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    scaled_BxV = logits_BxV / decoding.temperature
    if decoding.top_p < 1:
        order_BxV = jnp.argsort(-scaled_BxV, axis=-1)
        probabilities_BxV = jax.nn.softmax(jnp.take_along_axis(scaled_BxV, order_BxV, axis=-1), axis=-1)
        # A token stays if the ones before it do not yet hold top_p; the first therefore always stays.
        before_BxV = jnp.cumsum(probabilities_BxV, axis=-1) - probabilities_BxV
        kept_BxV = jnp.take_along_axis(before_BxV < decoding.top_p, jnp.argsort(order_BxV, axis=-1), axis=-1)
        scaled_BxV = jnp.where(kept_BxV, scaled_BxV, -jnp.inf)
    keys_B = jax.vmap(jax.random.fold_in)(keys_B, positions_B)
    return jax.vmap(jax.random.categorical)(keys_B, scaled_BxV).astype(jnp.int32)


def _bucket(length: int) -> int:
    """The smallest power of two, from SMALLEST_BUCKET on, that holds `length` tokens."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _prefill(
    params: phi.Params,
    prompts_BxP: jax.Array,
    lengths_B: jax.Array,
    keys_B: jax.Array,
    config: phi.PhiConfig,
    decoding: Decoding,
    cache_length: int,
) -> tuple[jax.Array, phi.Cache]:
    """The first new token [B] of each row, and the cache that holds the prompts."""
    batch, length = prompts_BxP.shape
    positions_BxP = jnp.broadcast_to(jnp.arange(length), (batch, length))
    cache = phi.empty_cache(config, batch, cache_length)
    hidden_BxPxD, cache = phi.forward_cached(params, prompts_BxP, positions_BxP, cache, config)
    last_BxD = jnp.take_along_axis(hidden_BxPxD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    return choose(phi.logits(params, last_BxD, config), keys_B, lengths_B, decoding), cache


@functools.partial(jax.jit, static_argnums=(5, 6), donate_argnums=4)
def _decode_segment(
    params: phi.Params,
    last_B: jax.Array,
    positions_B: jax.Array,
    keys_B: jax.Array,
    cache: phi.Cache,
    config: phi.PhiConfig,
    decoding: Decoding,
) -> tuple[jax.Array, jax.Array, phi.Cache]:
    """(tokens [B, SEGMENT] starting with `last`, the token after them [B], cache). last stands at positions_B."""

    def decode(
        carry: tuple[jax.Array, phi.Cache], offset: jax.Array
    ) -> tuple[tuple[jax.Array, phi.Cache], jax.Array]:
        token_B, cache = carry
        position_B = positions_B + offset
        hidden_Bx1xD, cache = phi.forward_cached(params, token_B[:, None], position_B[:, None], cache, config)
        next_B = choose(phi.logits(params, hidden_Bx1xD[:, 0], config), keys_B, position_B + 1, decoding)
        return (next_B, cache), token_B

    (last_B, cache), tokens_GxB = jax.lax.scan(decode, (last_B, cache), jnp.arange(SEGMENT))
    return tokens_GxB.T, last_B, cache
