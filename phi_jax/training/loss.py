"""Next-token cross-entropy of a batch, whose logits never exist all at once."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from phi_jax.model import phi
from phi_jax.model.attention import segments_of
from phi_jax.parallel.mesh import BatchCut, parameter_shardings
from phi_jax.parallel.sharded_attention import sharded_attention


def batch_loss(
    params: phi.Params,
    tokens_BxT1: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    dropout_keys_B: jax.Array | None = None,
    *,
    document_end: int | None = None,
    cut: BatchCut | None = None,
) -> jax.Array:
    """Mean loss of a batch of records [B, seq_len + 1] int32: each position predicts the next token.

    document_end: the end-of-text token, where attention is to stay within a document. chunk, cut: see chunked_loss.
    """
    inputs_BxT = tokens_BxT1[:, :-1]
    segments_BxT = None if document_end is None else segments_of(inputs_BxT, document_end)
    attend = None if cut is None else sharded_attention(config, cut.mesh, batch_axes=cut.axes)
    hidden_BxTxD = phi.hidden_states(
        params,
        inputs_BxT,
        config,
        segments_BxT=segments_BxT,
        attend=attend,
        dropout_keys_B=dropout_keys_B,
        layout=cut or phi.NOWHERE_CUT,
    )
    return chunked_loss(params, hidden_BxTxD, tokens_BxT1[:, 1:], config, chunk, cut)


def chunked_loss(
    params: phi.Params,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    cut: BatchCut | None = None,
) -> jax.Array:
    """Mean next-token cross-entropy (nats), float32, with logits of only `chunk` positions alive at a time.

    Chunks run along the sequence, so that the batch keeps its sharding. T need not be a multiple of `chunk`.
    cut: how batch and parameters lie over a mesh; None: one device.
    """
    chunk = min(chunk, hidden_BxTxD.shape[1])
    return _chunked_loss(params["head"], hidden_BxTxD, targets_BxT, config, chunk, cut)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _chunked_loss(
    head: phi.Params,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    cut: BatchCut | None,
) -> jax.Array:
    return _chunked_loss_forward(head, hidden_BxTxD, targets_BxT, config, chunk, cut)[0]


def _chunked_loss_forward(
    head: phi.Params,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    cut: BatchCut | None,
) -> tuple[jax.Array, tuple[phi.Params, jax.Array]]:
    """The loss and its gradients at once: each chunk's logits are made once, and not a second time on the way back."""
    compute_head = _compute_head(head, config, cut)

    def add_chunk(sums: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        hidden_WxRxSxD, targets_WxRxS = inputs
        logits_WxRxSxV = phi.logits({"head": compute_head}, hidden_WxRxSxD, config)
        loss_W, d_logits_WxRxSxV = _chunk_loss(logits_WxRxSxV, targets_WxRxS)
        d_bias_WxV = d_logits_WxRxSxV.sum((1, 2))
        # In the compute dtype, as every gradient of an activation: two thirds of the head's FLOPs are these.
        d_logits_WxRxSxV = d_logits_WxRxSxV.astype(config.dtype)
        d_kernel_WxDxV = jnp.einsum(
            "wrsd,wrsv->wdv", hidden_WxRxSxD, d_logits_WxRxSxV, preferred_element_type=jnp.float32
        )
        d_hidden_WxRxSxD = jnp.einsum("wrsv,dv->wrsd", d_logits_WxRxSxV, compute_head["kernel"])
        return jax.tree.map(jnp.add, sums, (loss_W, d_kernel_WxDxV, d_bias_WxV)), d_hidden_WxRxSxD

    batch, length, width = hidden_BxTxD.shape
    chunks = _chunks(hidden_BxTxD, targets_BxT, chunk, cut)
    ways = chunks[0].shape[1]
    zeros = tuple(jnp.zeros((ways, *shape), jnp.float32) for shape in ((), head["kernel"].shape, head["bias"].shape))
    (total_W, d_kernel_WxDxV, d_bias_WxV), d_hidden_CxWxRxSxD = jax.lax.scan(add_chunk, zeros, chunks)
    d_head = {"kernel": d_kernel_WxDxV.sum(0), "bias": d_bias_WxV.sum(0)}
    d_hidden_BxTxD = jnp.moveaxis(d_hidden_CxWxRxSxD, 0, 2).reshape(batch, -1, width)[:, :length]
    return total_W.sum() / targets_BxT.size, (d_head, d_hidden_BxTxD)


def _chunked_loss_backward(
    config: phi.PhiConfig,
    chunk: int,
    cut: BatchCut | None,
    gradients: tuple[phi.Params, jax.Array],
    d_loss: jax.Array,
) -> tuple[phi.Params, jax.Array, None]:
    d_head, d_hidden_BxTxD = gradients
    scale = d_loss / (d_hidden_BxTxD.shape[0] * d_hidden_BxTxD.shape[1])
    return (*jax.tree.map(lambda d: (d * scale).astype(d.dtype), (d_head, d_hidden_BxTxD)), None)


_chunked_loss.defvjp(_chunked_loss_forward, _chunked_loss_backward)


def _compute_head(head: phi.Params, config: phi.PhiConfig, cut: BatchCut | None) -> phi.Params:
    """The head in the compute dtype, gathered along fsdp once and not for each chunk."""
    kernel_DxV = head["kernel"].astype(config.dtype)
    if cut is not None:
        gathered = parameter_shardings(("embed", "vocab"), cut.mesh, gathered=True)
        kernel_DxV = jax.lax.with_sharding_constraint(kernel_DxV, gathered)
    return {**head, "kernel": kernel_DxV}


def _chunks(
    hidden_BxTxD: jax.Array, targets_BxT: jax.Array, chunk: int, cut: BatchCut | None
) -> tuple[jax.Array, jax.Array]:
    """(hidden [C, W, R, chunk, D], targets [C, W, R, chunk]), the last chunk filled up with targets of -1.

    W: the ways that the batch is cut over the mesh, B = W R. An axis of their own keeps the head's gradients of
    different devices apart until the last chunk is through; else each chunk would end with an all-reduce of [D, V].
    """
    batch, length, width = hidden_BxTxD.shape
    ways = 1 if cut is None else cut.ways
    padding = -length % chunk
    hidden_BxTxD = jnp.pad(hidden_BxTxD, ((0, 0), (0, padding), (0, 0)))
    targets_BxT = jnp.pad(targets_BxT, ((0, 0), (0, padding)), constant_values=-1)
    hidden_WxRxCxSxD = hidden_BxTxD.reshape(ways, batch // ways, -1, chunk, width)
    targets_WxRxCxS = targets_BxT.reshape(ways, batch // ways, -1, chunk)
    return jnp.moveaxis(hidden_WxRxCxSxD, 2, 0), jnp.moveaxis(targets_WxRxCxS, 2, 0)


def _chunk_loss(logits_WxRxSxV: jax.Array, targets_WxRxS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sums [W] of the cross-entropies, their gradient by the logits), float32, of targets that are not negative."""
    logits_WxRxSxV -= logits_WxRxSxV.max(-1, keepdims=True)
    exps_WxRxSxV = jnp.exp(logits_WxRxSxV)
    sums_WxRxS = exps_WxRxSxV.sum(-1)
    is_target_WxRxSxV = jnp.arange(logits_WxRxSxV.shape[-1]) == targets_WxRxS[..., None]
    losses_WxRxS = jnp.log(sums_WxRxS) - jnp.where(is_target_WxRxSxV, logits_WxRxSxV, 0).sum(-1)
    counts_WxRxS = targets_WxRxS >= 0
    scale_WxRxS = counts_WxRxS / sums_WxRxS
    return (
        jnp.where(counts_WxRxS, losses_WxRxS, 0).sum((1, 2)),
        exps_WxRxSxV * scale_WxRxS[..., None] - is_target_WxRxSxV,
    )
