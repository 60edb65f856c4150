"""Causal attention kernels, chosen by name. One that cannot do what was asked is an error, never another kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from phi_jax.errors import UserError

KERNELS = ("xla",)


def check_kernel(name: str) -> None:
    """Raises UserError for a kernel that this version does not have."""
    if name not in KERNELS:
        raise UserError(f"config.model.attention={name!r}: no such kernel here; there are: {', '.join(KERNELS)}")


def attend(
    q_BxTxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    mask_BxTxS: jax.Array,
    *,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """The `xla` kernel: softmax(q k / sqrt(K)) v where the mask is true; logits and softmax in float32.

    The mask may have a batch axis of 1. Dropout, with a key, falls on the probabilities (paper, section 2.3).
    Returns [B, T, H, K] in q's dtype.
    """
    # The division by the softmax's sum waits until after the second product, where it meets K instead of S values
    # a row: on a CPU, 37 ms forward and backward instead of 65 (tests/benchmarks/NOTES.md).
    q_BxTxHxK = q_BxTxHxK * q_BxTxHxK.shape[-1] ** -0.5
    logits_BxHxTxS = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK, k_BxSxHxK, preferred_element_type=jnp.float32)
    logits_BxHxTxS = jnp.where(mask_BxTxS[:, None], logits_BxHxTxS, jnp.finfo(jnp.float32).min)
    peak_BxHxTx1 = jax.lax.stop_gradient(logits_BxHxTxS.max(-1, keepdims=True))
    weights_BxHxTxS = jnp.exp(logits_BxHxTxS - peak_BxHxTx1)
    sums_BxTxHx1 = weights_BxHxTxS.sum(-1).transpose(0, 2, 1)[..., None]
    if dropout > 0 and dropout_key is not None:
        kept = jax.random.bernoulli(dropout_key, 1 - dropout, weights_BxHxTxS.shape)
        weights_BxHxTxS = jnp.where(kept, weights_BxHxTxS / (1 - dropout), 0.0)
    heads_BxTxHxK = jnp.einsum(
        "bhts,bshk->bthk",
        weights_BxHxTxS.astype(v_BxSxHxK.dtype),
        v_BxSxHxK,
        preferred_element_type=jnp.float32,
    )
    return (heads_BxTxHxK / sums_BxTxHx1).astype(v_BxSxHxK.dtype)
