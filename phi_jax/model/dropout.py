"""Dropout with a key for each row: what is dropped does not depend on how a batch is cut over devices, or in time."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dropout(x_BxX: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """x [B, ...] with values zeroed with probability `rate` and the others scaled by 1 / (1 - rate), in x's dtype.

    keys_B: a key for each row; None: x itself.
    """
    if keys_B is None or rate == 0:
        return x_BxX
    kept_BxX = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x_BxX.shape[1:]))(keys_B)
    return jnp.where(kept_BxX, x_BxX / (1 - rate), 0).astype(x_BxX.dtype)
