"""The choice of the next token: greedy, or drawn under a temperature, top-k and top-p, on the device."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from phi_jax.errors import UserError
from phi_jax.fields import FIELDS, Field

_RANGES = {
    "temperature": Field(0, kind="a number"), "top_p": FIELDS["evaluate.top_p"],
    "top_k": Field(0, 2**31 - 1, kind="a whole number"), "seed": FIELDS["seed"],
}  # fmt: skip
_ABOVE_ONE = 0x3F800001  # the bits of the float32 that follows 1, which no weight reaches


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the next token is chosen."""

    temperature: float = 0.0  # 0 = greedy: the most probable token, the lowest id among equals
    top_p: float = 1.0  # draws come from the smallest set of tokens that holds this much probability
    seed: int = 0  # of the draws; greedy makes none
    top_k: int = 0  # draws come from so many most probable tokens; 0 = all

    def __post_init__(self) -> None:
        """Raises UserError for a value that means nothing."""
        for name, field in _RANGES.items():
            value = getattr(self, name)
            if problem := field.problem(value):
                raise UserError(f"{name}={value}: {problem}")


AnyArray = Array | np.ndarray


class Draws(NamedTuple):
    """How each row's next token is chosen, [R]. A draw is keyed by the first three and the token's position."""

    seed: AnyArray  # uint32
    prompt: AnyArray  # int32
    sample: AnyArray  # int32
    temperature: AnyArray  # float32; 0: greedy
    top_p: AnyArray  # float32
    top_k: AnyArray  # int32; 0: all


def choose(logits_RxV: Array, positions_R: Array, draws: Draws) -> Array:
    """The token at `positions` of each row, int32 [R]; -1 where its logits are not finite.

    Filters as transformers applies them: temperature, then top_k, then top_p of what that leaves. Tokens as probable as
    the last one of a set belong to it too, so that the order of ids decides nothing.
    """
    peak_Rx1 = logits_RxV.max(-1, keepdims=True)
    greedy_R = _first(logits_RxV == peak_Rx1)
    is_drawn_R = draws.temperature > 0

    def drawn() -> Array:
        temperature_R = jnp.where(is_drawn_R, draws.temperature, 1.0)
        weights_RxV = jnp.exp((logits_RxV - peak_Rx1) / temperature_R[:, None])
        weights_RxV = jnp.where(weights_RxV >= _least_kept(weights_RxV, draws)[:, None], weights_RxV, 0.0)
        # The token at which the running sum passes a random share of the whole; rounding may end it at a weight of 0.
        ends_RxV = jnp.where(weights_RxV > 0, jnp.cumsum(weights_RxV, axis=-1), 0.0)
        target_R = jax.vmap(_uniform)(draws.seed, draws.prompt, draws.sample, positions_R) * ends_RxV.max(-1)
        return jnp.where(is_drawn_R, _first(ends_RxV > target_R[:, None]), greedy_R)

    return jnp.where(jnp.isfinite(peak_Rx1[:, 0]), jax.lax.cond(is_drawn_R.any(), drawn, lambda: greedy_R), -1)


def _first(is_RxV: Array) -> Array:
    """The lowest id of each row that is true, int32 [R]. On a CPU a minimum is five times as fast as argmax."""
    last = is_RxV.shape[-1] - 1
    return jnp.where(is_RxV, jnp.arange(last + 1, dtype=jnp.int32), last).min(-1)


def _uniform(seed: AnyArray, *numbers: AnyArray) -> Array:
    key = jax.random.key(seed)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.random.uniform(key)


def _least_kept(weights_RxV: Array, draws: Draws) -> Array:
    """[R]: the weight (0 to 1) from which on tokens are in top_k and top_p."""

    def kept(least_R: Array) -> Array:
        return weights_RxV >= least_R[:, None]

    def mass(least_R: Array) -> Array:
        return jnp.where(kept(least_R), weights_RxV, 0.0).sum(-1)

    of_count_R = _highest(lambda least_R: kept(least_R).sum(-1) >= draws.top_k, draws.top_k > 0)
    wanted_R = draws.top_p * mass(of_count_R)
    of_mass_R = _highest(lambda least_R: mass(least_R) >= wanted_R, draws.top_p < 1)
    return jnp.maximum(of_count_R, of_mass_R)


def _highest(holds: Callable[[Array], Array], where_R: AnyArray) -> Array:
    """[R]: the highest number up to 1 for which `holds`, as it does for all that are lower; 0 but `where`.

    Halves the numbers' bits, which sort as the numbers do: 30 looks at all weights, whatever their distribution.
    """

    def number(bits_R: Array) -> Array:
        return jax.lax.bitcast_convert_type(bits_R, jnp.float32)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low_R, high_R = bounds
        middle_R = (low_R + high_R) // 2
        holds_R = holds(number(middle_R))
        return jnp.where(holds_R, middle_R, low_R), jnp.where(holds_R, high_R, middle_R)

    low_R, high_R = jnp.zeros(where_R.shape, jnp.int32), jnp.where(where_R, _ABOVE_ONE, 1)
    low_R, _ = jax.lax.while_loop(lambda bounds: (bounds[1] - bounds[0] > 1).any(), halve, (low_R, high_R))
    return number(low_R)
