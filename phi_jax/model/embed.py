"""One vector for a text: the last layer's hidden states, pooled (paper, section 2.1, which names no pooling)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from phi_jax.model.phi import Params, PhiConfig, hidden_states


@functools.partial(jax.jit, static_argnames=("config", "pooling"))
def embed(params: Params, tokens_BxT: jax.Array, lengths_B: jax.Array, config: PhiConfig, pooling: str) -> jax.Array:
    """Vectors [B, D] float32 of int32 tokens [B, T] whose first `lengths` count; what stands behind them is padding.

    pooling: "mean" over a text's tokens or its "last" token, of the final LayerNorm's output. Attention is causal, so
    padding on the right reaches no token of the text. A text of length 0 gives zeros.
    """
    # Texts of any length on any machine: the kernel that trained the model may do neither.
    config = dataclasses.replace(config, attention="xla")
    hidden_BxTxD = hidden_states(params, tokens_BxT, config).astype(jnp.float32)
    positions_1xT = jnp.arange(tokens_BxT.shape[1])[None]
    last_Bx1 = lengths_B[:, None] - 1
    chosen_BxT = positions_1xT <= last_Bx1 if pooling == "mean" else positions_1xT == last_Bx1
    sums_BxD = jnp.where(chosen_BxT[..., None], hidden_BxTxD, 0.0).sum(1)
    return sums_BxD / jnp.maximum(chosen_BxT.sum(1, keepdims=True), 1)
