"""One vector for a text: the last layer's hidden states, pooled (paper, section 2.1, which names no pooling)."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from phi_jax.errors import UserError
from phi_jax.model.phi import Params, PhiConfig, hidden_states

POOLINGS = ("mean", "last")


def check_pooling(name: str) -> None:
    """Raises UserError for a pooling that there is not."""
    if name not in POOLINGS:
        raise UserError(f"config.filter.pooling={name!r}: no such pooling; there are: {', '.join(POOLINGS)}")


@functools.partial(jax.jit, static_argnames=("config", "pooling"))
def embed(params: Params, tokens_BxT: jax.Array, lengths_B: jax.Array, config: PhiConfig, pooling: str) -> jax.Array:
    """Vectors [B, D] float32 of int32 tokens [B, T] whose first `lengths` count; what stands behind them is padding.

    pooling: "mean" over a text's tokens or its "last" token, of the final LayerNorm's output. Attention is causal, so
    padding on the right reaches no token of the text. A text of length 0 gives zeros.
    """
    check_pooling(pooling)
    # Texts of any length on any machine: the kernel that trained the model may do neither.
    config = dataclasses.replace(config, attention="xla")
    hidden_BxTxD = hidden_states(params, tokens_BxT, config).astype(jnp.float32)
    positions_1xT = jnp.arange(tokens_BxT.shape[1])[None]
    if pooling == "mean":
        chosen_BxT = positions_1xT < lengths_B[:, None]
    else:
        chosen_BxT = positions_1xT == lengths_B[:, None] - 1
    sums_BxD = jnp.where(chosen_BxT[..., None], hidden_BxTxD, 0.0).sum(1)
    return sums_BxD / jnp.maximum(chosen_BxT.sum(1, keepdims=True), 1)
