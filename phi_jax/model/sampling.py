"""The choice of the next token: greedy, or drawn under a temperature, top-k and top-p, on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phi_jax.errors import UserError

_BLOCK = 256  # tokens that are looked at together, before one of them is looked for
_FEW = 64  # highest weights among which the last one kept is looked for first


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the next token is chosen."""

    temperature: float = 0.0  # 0 = greedy: the most probable token, the lowest id among equals
    top_p: float = 1.0  # draws come from the smallest set of tokens that holds this much probability
    seed: int = 0  # of the draws; greedy makes none
    top_k: int = 0  # draws come from so many most probable tokens; 0 = all

    def __post_init__(self) -> None:
        """Raises UserError for a value that means nothing."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}: must be 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be above 0 and at most 1 (1 = all tokens)")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k}: must be 0 (all tokens) or a number of tokens")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: must be from 0 to 2**32 - 1")

    @property
    def method(self) -> str:
        """Which program decodes: "greedy", "drawn" or "filtered". Its numbers are inputs, so none recompiles it."""
        if self.temperature == 0:
            return "greedy"
        return "drawn" if self.top_p == 1 and self.top_k == 0 else "filtered"

    def __str__(self) -> str:
        if self.temperature == 0:
            return "greedy"
        top_k = f", top_k {self.top_k}" if self.top_k else ""
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}{top_k}"


METHODS = ("greedy", "drawn", "filtered")  # each can do what those before it can


Array = jax.Array | np.ndarray


class Chance(NamedTuple):
    """Decoding's numbers for each row, [R]."""

    temperature: Array  # float32; 0: greedy
    top_p: Array  # float32
    top_k: Array  # int32; 0: all


def choose(logits_RxV: jax.Array, keys_R: jax.Array, positions_R: jax.Array, chance: Chance, method: str) -> jax.Array:
    """The next token of each row, int32 [R]. keys_R: one key a row; the position is folded in. method: Decoding's,
    or one that can do more.

    Filters as transformers applies them: temperature, then top_k, then top_p of what that leaves. Tokens as probable as
    the last one of a set belong to it too, so that the order of ids decides nothing.
    """
    logits_RxBxE = _in_blocks(logits_RxV)
    peaks_RxB = logits_RxBxE.max(-1)
    greedy_R = _within(logits_RxBxE, jnp.argmax(peaks_RxB, axis=-1), lambda chosen_RxE: jnp.argmax(chosen_RxE, axis=-1))
    if method == "greedy":
        return greedy_R
    draws_R = chance.temperature > 0
    temperature_R = jnp.where(draws_R, chance.temperature, 1.0)
    peak_R = peaks_RxB.max(-1)
    weights_RxBxE = jnp.exp((logits_RxBxE - peak_R[:, None, None]) / temperature_R[:, None, None])
    if method == "filtered":
        least_R = _least_kept(weights_RxBxE.reshape(len(logits_RxV), -1), chance)
        weights_RxBxE = jnp.where(weights_RxBxE >= least_R[:, None, None], weights_RxBxE, 0.0)
    keys_R = jax.vmap(jax.random.fold_in)(keys_R, positions_R)
    return jnp.where(draws_R, _drawn(weights_RxBxE, jax.vmap(jax.random.uniform)(keys_R)), greedy_R)


def _in_blocks(logits_RxV: jax.Array) -> jax.Array:
    """[R, B, E] with E = _BLOCK; the last block is filled up with what is never chosen."""
    rows, vocabulary = logits_RxV.shape
    padded = jnp.pad(logits_RxV, ((0, 0), (0, -vocabulary % _BLOCK)), constant_values=-jnp.inf)
    return padded.reshape(rows, -1, _BLOCK)


def _within(values_RxBxE: jax.Array, block_R: jax.Array, find: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The token that `find` points at within a block of each row, int32 [R]."""
    chosen_RxE = jnp.take_along_axis(values_RxBxE, block_R[:, None, None], axis=1)[:, 0]
    return (block_R * _BLOCK + find(chosen_RxE)).astype(jnp.int32)


def _least_kept(weights_RxV: jax.Array, chance: Chance) -> jax.Array:
    """[R]: the weight from which on tokens are in top_k and top_p.

    Nearly always the last one is among the few of the highest weights. Where it is not, in rows of a flat distribution,
    all weights are sorted.
    """
    highest_RxF, _ = jax.lax.top_k(weights_RxV, min(_FEW, weights_RxV.shape[-1]))
    among_few_R, is_found_R = _last_kept(highest_RxF, weights_RxV, chance)
    is_all_R = (chance.top_p == 1) & (chance.top_k == 0)
    kept_R = jax.lax.cond(
        (is_found_R | is_all_R | (chance.temperature == 0)).all(),
        lambda: among_few_R,
        lambda: jnp.where(
            is_found_R, among_few_R, _last_kept(jnp.sort(weights_RxV, descending=True), weights_RxV, chance)[0]
        ),
    )
    return jnp.where(is_all_R, 0.0, kept_R)


def _last_kept(highest_RxF: jax.Array, weights_RxV: jax.Array, chance: Chance) -> tuple[jax.Array, jax.Array]:
    """([R] the least weight in top_k and top_p, [R] whether it is among the highest ones, which are sorted)."""
    vocabulary, few = weights_RxV.shape[-1], highest_RxF.shape[-1]
    wanted_R = jnp.where(chance.top_k > 0, jnp.minimum(chance.top_k, vocabulary), vocabulary)
    sums_RxF = jnp.cumsum(highest_RxF, axis=-1)
    by_count_R = jnp.minimum(wanted_R, few) - 1
    # top_p is a share of what top_k leaves.
    left_R = jnp.where(wanted_R <= few, _at(sums_RxF, by_count_R), weights_RxV.sum(-1))
    is_mass_RxF = sums_RxF >= (chance.top_p * left_R)[:, None]
    by_mass_R = jnp.where(chance.top_p < 1, jnp.argmax(is_mass_RxF, axis=-1), few - 1)
    is_found_R = (wanted_R <= few) | (is_mass_RxF.any(-1) & (chance.top_p < 1) & (chance.top_k == 0))
    return _at(highest_RxF, jnp.minimum(by_count_R, by_mass_R)), is_found_R


def _at(values_RxI: jax.Array, index_R: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values_RxI, index_R[:, None], axis=-1)[:, 0]


def _drawn(weights_RxBxE: jax.Array, uniform_R: jax.Array) -> jax.Array:
    """The token at which the running sum of weights passes `uniform` of the whole: one random number a row.

    Summed in blocks first: a running sum over a vocabulary of 51,200 is slow everywhere.
    """
    sums_RxB = weights_RxBxE.sum(-1)
    ends_RxB = jnp.cumsum(sums_RxB, axis=-1)
    target_R = uniform_R * ends_RxB[:, -1]
    block_R = _passed(ends_RxB, sums_RxB, target_R)
    before_R = _at(ends_RxB - sums_RxB, block_R)
    return _within(
        weights_RxBxE, block_R, lambda chosen_RxE: _passed(jnp.cumsum(chosen_RxE, -1), chosen_RxE, target_R - before_R)
    )


def _passed(ends_RxI: jax.Array, sizes_RxI: jax.Array, target_R: jax.Array) -> jax.Array:
    """The first index whose end lies above the target, among those of a size above 0; the last of these where rounding
    leaves none.
    """
    possible_RxI = sizes_RxI > 0
    passed_RxI = (ends_RxI > target_R[:, None]) & possible_RxI
    last_R = ends_RxI.shape[-1] - 1 - jnp.argmax(possible_RxI[:, ::-1], axis=-1)
    return jnp.where(passed_RxI.any(-1), jnp.argmax(passed_RxI, axis=-1), last_R)
