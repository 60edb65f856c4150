"""The `splash` kernel: Pallas' flash attention on TPUs, which skips the blocks that a causal mask leaves empty."""

from __future__ import annotations

import jax

from phi_jax.errors import UserError

_LANES = 128  # positions that a TPU's vector unit handles side by side; a block is a multiple of it
_BLOCKS = (512, 256, _LANES)  # positions of q and of k that are multiplied at once; the largest that divides T is taken


def check_splash_length(length: int) -> None:
    """Raises UserError for a number of positions that cannot be cut into blocks."""
    if length % _LANES:
        raise UserError(
            f"config.model.attention='splash': this kernel cannot do {length} positions; "
            f"make config.tokenize.seq_len a multiple of {_LANES}, or set config.model.attention=xla"
        )


def attend_splash(
    q_BxTxHxK: jax.Array,
    k_BxTxHxK: jax.Array,
    v_BxTxHxK: jax.Array,
    segments_BxT: jax.Array | None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Causal attention of arrays [B, T, H, K] of one float dtype, in that dtype; products add up in float32.

    interpret: run the kernel in Pallas' interpreter, slowly, on devices that are no TPUs; for tests.
    Raises UserError where T is no multiple of 128. Source: jax.experimental.pallas.ops.tpu.splash_attention.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, length, num_heads, head_dim = q_BxTxHxK.shape
    check_splash_length(length)
    block = next(block for block in _BLOCKS if length % block == 0)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((length, length))] * num_heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )
    segment_ids = None if segments_BxT is None else splash.SegmentIds(q=segments_BxT, kv=segments_BxT)
    # The kernel does not scale, and takes one row of a batch, heads first.
    q_BxHxTxK, k_BxHxTxK, v_BxHxTxK = (x.swapaxes(1, 2) for x in (q_BxTxHxK * head_dim**-0.5, k_BxTxHxK, v_BxTxHxK))
    return jax.vmap(kernel)(q_BxHxTxK, k_BxHxTxK, v_BxHxTxK, segment_ids).swapaxes(1, 2)
