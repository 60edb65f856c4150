"""The `cudnn` kernel: cuDNN's flash attention on NVIDIA GPUs, through jax.nn.dot_product_attention."""

from __future__ import annotations

import jax

from phi_jax.errors import UserError


def check_cudnn(compute_dtype: str, head_dim: int) -> None:
    """Raises UserError for what cuDNN has on no GPU; it takes 16-bit floats and head dims that are multiples of 8."""
    if compute_dtype != "bfloat16":
        raise UserError(
            f"config.model.attention='cudnn': this kernel has no {compute_dtype}; "
            "set config.model.compute_dtype=bfloat16, or config.model.attention=xla"
        )
    if head_dim % 8:
        raise UserError(
            f"config.model.attention='cudnn': this kernel cannot do config.model.head_dim={head_dim}; "
            "make it a multiple of 8, or set config.model.attention=xla"
        )


def attend_cudnn(
    q_BxTxHxK: jax.Array, k_BxTxHxK: jax.Array, v_BxTxHxK: jax.Array, segments_BxT: jax.Array | None
) -> jax.Array:
    """Causal attention of bfloat16 arrays [B, T, H, K], in that dtype.

    cuDNN has no segment numbers that jax's public function could hand on. With segments, the mask of documents goes in
    as a bias instead, still to the fused kernel: 2 T^2 bytes a row in the forward pass, and as much for the bias's
    gradient, which nobody reads, in the backward pass. T must then be even.
    Raises UserError for what this GPU's cuDNN cannot do: a head dim above 128 (above 256 from Hopper on), or no cuDNN.
    """
    if segments_BxT is None:
        mask_Bx1xTxT = None
    else:
        if q_BxTxHxK.shape[1] % 2:
            raise UserError(
                f"config.model.attention='cudnn': with document masks this kernel cannot do {q_BxTxHxK.shape[1]} "
                "positions; make config.tokenize.seq_len even, or set config.model.attention=xla"
            )
        mask_Bx1xTxT = (segments_BxT[:, :, None] == segments_BxT[:, None, :])[:, None]
    try:
        return jax.nn.dot_product_attention(
            q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, mask=mask_Bx1xTxT, is_causal=True, implementation="cudnn"
        )
    except RuntimeError as error:  # NotImplementedError, for what it cannot do, is one too
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"config.model.attention='cudnn': {reason}; set config.model.attention=xla") from None
