"""Causal attention kernels, chosen by name. One that cannot do what was asked is an error, never another kernel.

`xla` is written out below; `cudnn` and `splash` are fused kernels of NVIDIA GPUs and TPUs. Where a record holds
several documents, `segments` keeps each position within its own.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from phi_jax.errors import UserError
from phi_jax.model.attention_cudnn import attend_cudnn, check_cudnn
from phi_jax.model.attention_splash import attend_splash, check_splash_length
from phi_jax.model.dropout import dropout

# (q [B, T, H, K], k and v likewise, segments int32 [B, T] or None) -> heads [B, T, H, K]. Causal, without dropout.
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]

FUSED: dict[str, Attend] = {"cudnn": attend_cudnn, "splash": attend_splash}
KERNELS = ("xla", *FUSED)
# Platforms as jax.Device.platform names them.
_PLATFORMS = {"cudnn": ("gpu", "cuda"), "splash": ("tpu",)}


def check_kernel(name: str, *, dropout_rate: float, compute_dtype: str, head_dim: int, max_seq_len: int) -> None:
    """Raises UserError for a kernel that there is not, or that cannot compute such a model."""
    if name not in KERNELS:
        raise UserError(f"config.model.attention={name!r}: no such kernel here; there are: {', '.join(KERNELS)}")
    if name in FUSED and dropout_rate > 0:
        raise UserError(
            f"config.model.attention={name!r}: this kernel has no dropout (config.model.attention_dropout="
            f"{dropout_rate}); set config.model.attention_dropout=0, or config.model.attention=xla"
        )
    if name == "cudnn":
        check_cudnn(compute_dtype, head_dim)
    if name == "splash":
        check_splash_length(max_seq_len)


def check_kernel_on(name: str, platform: str) -> None:
    """Raises UserError where devices of this platform, e.g. mesh.devices.flat[0].platform, do not have the kernel.

    jax.default_backend() would not do: while a program is compiled for other devices, it names this machine's.
    """
    if platform not in _PLATFORMS.get(name, (platform,)):
        needed = {"cudnn": "an NVIDIA GPU", "splash": "a TPU"}[name]
        raise UserError(
            f"config.model.attention={name!r}: this kernel needs {needed}, and the devices here are {platform}; "
            "set config.model.attention=xla"
        )


def segments_of(tokens_BxT: jax.Array, end_of_text_id: int) -> jax.Array:
    """The number of the document that each position belongs to, int32 [B, T], from 0 in each row.

    The end-of-text token belongs to the document that it ends.
    """
    ends_BxT = (tokens_BxT == end_of_text_id).astype(jnp.int32)
    return jnp.cumsum(ends_BxT, axis=1, dtype=jnp.int32) - ends_BxT


def causal_mask(length: int, segments_BxT: jax.Array | None) -> jax.Array:
    """True where a position [.., T, ..] may see another [.., .., T], bool [B or 1, T, T]."""
    mask_1xTxT = jnp.tril(jnp.ones((length, length), bool))[None]
    if segments_BxT is None:
        return mask_1xTxT
    return mask_1xTxT & (segments_BxT[:, :, None] == segments_BxT[:, None, :])


def attend(
    q_BxTxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    mask_BxTxS: jax.Array,
    *,
    dropout_rate: float = 0.0,
    dropout_keys_B: jax.Array | None = None,
) -> jax.Array:
    """The `xla` kernel: softmax(q k / sqrt(K)) v where the mask is true; logits and softmax in float32.

    The mask may have a batch axis of 1. Dropout, with a key for each row, falls on the probabilities (paper, section
    2.3). Returns [B, T, H, K] in q's dtype.
    """
    # The division by the softmax's sum waits until after the second product, where it meets K instead of S values
    # a row: on a CPU, 37 ms forward and backward instead of 65 (tests/benchmarks/NOTES.md).
    q_BxTxHxK = q_BxTxHxK * q_BxTxHxK.shape[-1] ** -0.5
    logits_BxHxTxS = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK, k_BxSxHxK, preferred_element_type=jnp.float32)
    logits_BxHxTxS = jnp.where(mask_BxTxS[:, None], logits_BxHxTxS, jnp.finfo(jnp.float32).min)
    peak_BxHxTx1 = jax.lax.stop_gradient(logits_BxHxTxS.max(-1, keepdims=True))
    weights_BxHxTxS = jnp.exp(logits_BxHxTxS - peak_BxHxTx1)
    sums_BxTxHx1 = weights_BxHxTxS.sum(-1).transpose(0, 2, 1)[..., None]
    weights_BxHxTxS = dropout(weights_BxHxTxS, dropout_rate, dropout_keys_B)
    heads_BxTxHxK = jnp.einsum(
        "bhts,bshk->bthk",
        weights_BxHxTxS.astype(v_BxSxHxK.dtype),
        v_BxSxHxK,
        preferred_element_type=jnp.float32,
    )
    return (heads_BxTxHxK / sums_BxTxHx1).astype(v_BxSxHxK.dtype)
