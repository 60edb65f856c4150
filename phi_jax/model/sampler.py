"""Batched completion with a KV cache: greedy, or temperature and top-p.

Shapes are static: prompts are padded to the right up to a power of two (their bucket), only prompts of one bucket
share a batch, a partial batch is filled with copies, and tokens are decoded in segments of fixed length. So there is
one compilation a bucket, and a row is computed in the same way, bit for bit, whatever stands beside it. A draw is
keyed by (seed, prompt, sample, position), never by the batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phi_jax.errors import UserError
from phi_jax.model import phi

SEGMENT = 16  # tokens decoded between two looks at the stop strings
SMALLEST_BUCKET = 64  # tokens


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the next token is chosen."""

    temperature: float = 0.0  # 0 = greedy: the most probable token, the lowest id among equals
    top_p: float = 1.0  # draws come from the smallest set of tokens that holds this much probability
    seed: int = 0  # of the draws; greedy makes none

    def __post_init__(self) -> None:
        """Raises UserError for a value that means nothing."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}: must be 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be above 0 and at most 1 (1 = all tokens)")

    @property
    def method(self) -> str:
        """Which program decodes: "greedy", "temperature" or "top_p". Its numbers are inputs, so none recompiles it."""
        if self.temperature == 0:
            return "greedy"
        return "temperature" if self.top_p == 1 else "top_p"

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
    """Completes prompts in batches of `batch_size` rows with one model.

    params: as abstract_params(config) describes them. max_new_tokens: length of a completion at most; the
    end-of-text token is not counted. Raises UserError for sizes that leave nothing to do.
    """

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
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: must be at least 1")
        if not 0 < max_new_tokens < config.max_seq_len:
            raise UserError(
                f"max_new_tokens={max_new_tokens}: must be from 1 to {config.max_seq_len - 1}, so that a prompt fits "
                f"the model's context of {config.max_seq_len} beside them"
            )
        self._params = jax.tree.map(jnp.asarray, params)
        self._config = config
        self._end_of_text_id = end_of_text_id
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        self._decoding = decoding

    def complete(
        self,
        requests: Sequence[Request],
        stopped: Callable[[Request, list[int]], bool] = lambda request, tokens: False,
    ) -> Iterator[Completion]:
        """Yields a completion a request, in the order of the requests.

        stopped: asked between segments with a request and the tokens decoded for it so far; true ends the row early
        (what was decoded past the stop is the caller's to cut). Requests of different buckets do not share a batch:
        hand over many at once, rather than a batch at a time. Raises ValueError, before anything is computed, for a
        prompt that is empty, that is too long for the model's context together with max_new_tokens, or that holds
        an id outside the vocabulary.
        """
        for request in requests:
            self._check(request)
        by_bucket: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            by_bucket.setdefault(_bucket(len(request.tokens)), []).append(i)
        done: dict[int, Completion] = {}
        yielded = 0
        for indices in by_bucket.values():
            for start in range(0, len(indices), self._batch_size):
                batch = indices[start : start + self._batch_size]
                done.update(zip(batch, self._complete_batch([requests[i] for i in batch], stopped), strict=True))
                while yielded in done:
                    yield done.pop(yielded)
                    yielded += 1

    def _check(self, request: Request) -> None:
        longest = self._config.max_seq_len - self._max_new_tokens
        if not 0 < len(request.tokens) <= longest:
            raise ValueError(
                f"prompt {request.prompt}: {len(request.tokens)} tokens; with {self._max_new_tokens} new ones "
                f"a context of {self._config.max_seq_len} takes 1 to {longest}"
            )
        if not 0 <= min(request.tokens) <= max(request.tokens) < self._config.vocab_size:
            raise ValueError(
                f"prompt {request.prompt}: ids from {min(request.tokens)} to {max(request.tokens)}, "
                f"the vocabulary has 0 to {self._config.vocab_size - 1}; is it another model's tokenizer?"
            )

    def _complete_batch(
        self, requests: Sequence[Request], stopped: Callable[[Request, list[int]], bool]
    ) -> list[Completion]:
        """The completions of at most batch_size requests of one bucket."""
        live = len(requests)
        rows = [*requests, *[requests[-1]] * (self._batch_size - live)]
        bucket = _bucket(len(rows[0].tokens))
        prompts_BxP = np.full((self._batch_size, bucket), self._end_of_text_id, np.int32)
        for row, request in enumerate(rows):
            prompts_BxP[row, : len(request.tokens)] = request.tokens
        lengths_B = jnp.array([len(r.tokens) for r in rows], jnp.int32)
        root = jax.random.key(self._decoding.seed)
        keys_B = _row_keys(root, np.array([r.prompt for r in rows]), np.array([r.sample for r in rows]))
        chance = Chance(jnp.float32(self._decoding.temperature), jnp.float32(self._decoding.top_p))
        segments = -(-self._max_new_tokens // SEGMENT)
        last_B, cache = _prefill(
            self._params,
            prompts_BxP,
            lengths_B,
            keys_B,
            chance,
            self._config,
            self._decoding.method,
            bucket + segments * SEGMENT,
        )
        decoded: list[list[int]] = [[] for _ in rows]
        reasons = [""] * len(rows)
        for segment in range(segments):
            new_BxG, last_B, cache = _decode_segment(
                self._params,
                last_B,
                lengths_B + segment * SEGMENT,
                keys_B,
                chance,
                cache,
                self._config,
                self._decoding.method,
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


class Chance(NamedTuple):
    """Decoding's numbers on the device, float32 []."""

    temperature: jax.Array
    top_p: jax.Array


def choose(logits_BxV: jax.Array, keys_B: jax.Array, positions_B: jax.Array, chance: Chance, method: str) -> jax.Array:
    """The next token of each row, int32 [B]. keys_B: one key a row; the position is folded in. method: Decoding's."""
    if method == "greedy":
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)  # the first of equals
    keys_B = jax.vmap(jax.random.fold_in)(keys_B, positions_B)
    scaled_BxV = logits_BxV / chance.temperature
    if method == "temperature":
        return jax.vmap(jax.random.categorical)(keys_B, scaled_BxV).astype(jnp.int32)
    order_BxV = jnp.argsort(-scaled_BxV, axis=-1)  # stable: the lower id first among equals
    sorted_BxV = jnp.take_along_axis(scaled_BxV, order_BxV, axis=-1)
    probabilities_BxV = jax.nn.softmax(sorted_BxV, axis=-1)
    # A token stays if the ones before it do not yet hold top_p; the first therefore always stays.
    before_BxV = jnp.cumsum(probabilities_BxV, axis=-1) - probabilities_BxV
    sorted_BxV = jnp.where(before_BxV < chance.top_p, sorted_BxV, -jnp.inf)
    ranks_B = jax.vmap(jax.random.categorical)(keys_B, sorted_BxV)
    return jnp.take_along_axis(order_BxV, ranks_B[:, None], axis=-1)[:, 0].astype(jnp.int32)


def _bucket(length: int) -> int:
    """The smallest power of two, from SMALLEST_BUCKET on, that holds `length` tokens."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


@jax.jit
def _row_keys(root: jax.Array, prompts_B: jax.Array, samples_B: jax.Array) -> jax.Array:
    """A key for each row, of its prompt's and sample's numbers alone."""
    return jax.vmap(lambda p, s: jax.random.fold_in(jax.random.fold_in(root, p), s))(prompts_B, samples_B)


@functools.partial(jax.jit, static_argnames=("config", "method", "cache_length"))
def _prefill(
    params: phi.Params,
    prompts_BxP: jax.Array,
    lengths_B: jax.Array,
    keys_B: jax.Array,
    chance: Chance,
    config: phi.PhiConfig,
    method: str,
    cache_length: int,
) -> tuple[jax.Array, phi.Cache]:
    """The first new token [B] of each row, and the cache that holds the prompts."""
    batch, length = prompts_BxP.shape
    positions_BxP = jnp.broadcast_to(jnp.arange(length), (batch, length))
    cache = phi.empty_cache(config, batch, cache_length)
    hidden_BxPxD, cache = phi.forward_cached(params, prompts_BxP, positions_BxP, cache, config)
    last_BxD = jnp.take_along_axis(hidden_BxPxD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    return choose(phi.logits(params, last_BxD, config), keys_B, lengths_B, chance, method), cache


@functools.partial(jax.jit, static_argnames=("config", "method"), donate_argnames="cache")
def _decode_segment(
    params: phi.Params,
    last_B: jax.Array,
    positions_B: jax.Array,
    keys_B: jax.Array,
    chance: Chance,
    cache: phi.Cache,
    config: phi.PhiConfig,
    method: str,
) -> tuple[jax.Array, jax.Array, phi.Cache]:
    """(tokens [B, SEGMENT] starting with `last`, the token after them [B], cache). last stands at positions_B."""

    def decode(carry: tuple[jax.Array, phi.Cache], offset: jax.Array) -> tuple[tuple[jax.Array, phi.Cache], jax.Array]:
        token_B, cache = carry
        position_B = positions_B + offset
        hidden_Bx1xD, cache = phi.forward_cached(params, token_B[:, None], position_B[:, None], cache, config)
        logits_BxV = phi.logits(params, hidden_Bx1xD[:, 0], config)
        next_B = choose(logits_BxV, keys_B, position_B + 1, chance, method)
        return (next_B, cache), token_B

    (last_B, cache), tokens_GxB = jax.lax.scan(decode, (last_B, cache), jnp.arange(SEGMENT))
    return tokens_GxB.T, last_B, cache
