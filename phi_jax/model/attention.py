"""Causal attention kernels, chosen by name. One that cannot do what was asked is an error, never another kernel.

`xla` is `attend`; `cudnn` (NVIDIA GPUs) and `splash` (TPUs) are fused kernels. Where a record holds several documents,
`segments` keeps each position within its own.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax import Array

from phi_jax.errors import UserError, one_line

# (q [B, T, H, K], k and v likewise, segments int32 [B, T] or None) -> heads [B, T, H, K]. Causal, without dropout.
Attend = Callable[[Array, Array, Array, Array | None], Array]

# Platforms as jax.Device.platform names them.
_PLATFORMS = {"cudnn": ("gpu", "cuda"), "splash": ("tpu",)}
_LANES = 128  # positions that a TPU's vector unit handles side by side; a block is a multiple of it
# Positions of q and of k in a step of splash; the largest that divides T is taken, and at most 512 of k are multiplied
# at once. As compiled for v5e, this and one kernel for the whole backward pass take 21 % fewer instructions than 512
# and two (tests/acceptance/splash_blocks.json): a count, not a measurement.
_BLOCKS = (1024, 512, 256, _LANES)


def _refuse(name: str, problem: str, remedy: str) -> NoReturn:
    raise UserError(f"config.model.attention={name!r}: {problem}; {remedy}, or set config.model.attention=xla")


def check_kernel(model: Any) -> None:
    """Raises UserError for a kernel that cannot compute such a model, a phi.PhiConfig, on any device."""
    name = model.attention
    if name in FUSED and model.attention_dropout > 0:
        _refuse(
            name, f"this kernel has no dropout (config.model.attention_dropout={model.attention_dropout})",
            "set config.model.attention_dropout=0",
        )  # fmt: skip
    if name == "cudnn" and model.compute_dtype != "bfloat16":
        _refuse(name, f"this kernel has no {model.compute_dtype}", "set config.model.compute_dtype=bfloat16")
    if name == "cudnn" and model.head_dim % 8:
        _refuse(name, f"this kernel cannot do config.model.head_dim={model.head_dim}", "make it a multiple of 8")
    if name == "splash" and model.max_seq_len % _LANES:
        _refuse(
            name, f"this kernel cannot do {model.max_seq_len} positions",
            f"make config.tokenize.seq_len a multiple of {_LANES}",
        )  # fmt: skip


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


def segments_of(tokens_BxT: Array, end_of_text_id: int) -> Array:
    """The number of the document that each position belongs to, int32 [B, T], from 0 in each row.

    The end-of-text token belongs to the document that it ends.
    """
    ends_BxT = (tokens_BxT == end_of_text_id).astype(jnp.int32)
    return jnp.cumsum(ends_BxT, axis=1) - ends_BxT


def causal_mask(length: int, segments_BxT: Array | None) -> Array:
    """True where a position [.., T, ..] may see another [.., .., T], bool [B or 1, T, T]."""
    mask_1xTxT = jnp.tril(jnp.ones((length, length), bool))[None]
    if segments_BxT is None:
        return mask_1xTxT
    return mask_1xTxT & (segments_BxT[:, :, None] == segments_BxT[:, None, :])


def dropout(x_BxX: Array, rate: float, keys_B: Array | None) -> Array:
    """x [B, ...] with values zeroed with probability `rate` and the others scaled by 1 / (1 - rate), in x's dtype.

    keys_B: a key for each row; None: x itself.
    """
    if keys_B is None or rate == 0:
        return x_BxX
    kept_BxX = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x_BxX.shape[1:]))(keys_B)
    return jnp.where(kept_BxX, x_BxX / (1 - rate), 0).astype(x_BxX.dtype)


def attend(
    q_BxTxHxK: Array,
    k_BxSxHxK: Array,
    v_BxSxHxK: Array,
    mask_BxTxS: Array,
    *,
    dropout_rate: float = 0.0,
    dropout_keys_B: Array | None = None,
) -> Array:
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
        "bhts,bshk->bthk", weights_BxHxTxS.astype(v_BxSxHxK.dtype), v_BxSxHxK, preferred_element_type=jnp.float32
    )
    return (heads_BxTxHxK / sums_BxTxHx1).astype(v_BxSxHxK.dtype)


def attend_cudnn(q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, segments_BxT: Array | None) -> Array:
    """Causal attention of bfloat16 arrays [B, T, H, K], in that dtype.

    cuDNN has no segment numbers that jax's public function could hand on. With segments, the mask of documents goes in
    as a bias instead, still to the fused kernel: 2 T^2 bytes a row in the forward pass, and as much for the bias's
    gradient, which nobody reads, in the backward pass. T must then be even.
    Raises UserError for what this GPU's cuDNN cannot do: a head dim above 128 (above 256 from Hopper on), or no cuDNN.
    """
    mask_Bx1xTxT = None
    if segments_BxT is not None:
        if q_BxTxHxK.shape[1] % 2:
            _refuse(
                "cudnn", f"with document masks this kernel cannot do {q_BxTxHxK.shape[1]} positions",
                "make config.tokenize.seq_len even",
            )  # fmt: skip
        mask_Bx1xTxT = (segments_BxT[:, :, None] == segments_BxT[:, None, :])[:, None]
    try:
        return jax.nn.dot_product_attention(
            q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, mask=mask_Bx1xTxT, is_causal=True, implementation="cudnn"
        )
    except RuntimeError as error:  # NotImplementedError, for what it cannot do, is one too
        raise UserError(f"config.model.attention='cudnn': {one_line(error)}; set config.model.attention=xla") from None


def attend_splash(
    q_BxTxHxK: Array, k_BxTxHxK: Array, v_BxTxHxK: Array, segments_BxT: Array | None, *, interpret: bool = False
) -> Array:
    """Causal attention of arrays [B, T, H, K] of one float dtype, in that dtype; products add up in float32.

    interpret: run the kernel in Pallas' interpreter, slowly, on devices that are no TPUs; for tests.
    T is a multiple of 128. Source: jax.experimental.pallas.ops.tpu.splash_attention.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, length, num_heads, head_dim = q_BxTxHxK.shape
    block = next(block for block in _BLOCKS if length % block == 0)
    part = min(block, 512)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((length, length))] * num_heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=part,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=part,
            use_fused_bwd_kernel=True,
        ),
        interpret=interpret,
    )
    segment_ids = None if segments_BxT is None else splash.SegmentIds(q=segments_BxT, kv=segments_BxT)
    # The kernel does not scale, and takes one row of a batch, heads first.
    q_BxHxTxK, k_BxHxTxK, v_BxHxTxK = (x.swapaxes(1, 2) for x in (q_BxTxHxK * head_dim**-0.5, k_BxTxHxK, v_BxTxHxK))
    return jax.vmap(kernel)(q_BxHxTxK, k_BxHxTxK, v_BxHxTxK, segment_ids).swapaxes(1, 2)


FUSED = {"cudnn": attend_cudnn, "splash": attend_splash}
