"""Next-token cross-entropy of a batch, whose logits never exist all at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from phi_jax.model import phi
from phi_jax.model.attention import segments_of
from phi_jax.parallel.mesh import BatchCut, parameter_shardings
from phi_jax.parallel.sharded_attention import sharded_attention


def batch_loss(
    params: phi.Params,
    tokens_BxT1: Array,
    config: phi.PhiConfig,
    chunk: int,
    dropout_keys_B: Array | None = None,
    *,
    document_end: int | None = None,
    cut: BatchCut,
) -> Array:
    """Mean loss of a batch of records [B, seq_len + 1] int32: each position predicts the next token.

    document_end: the end-of-text token, where attention is to stay within a document. chunk, cut: see chunked_loss.
    """
    inputs_BxT = tokens_BxT1[:, :-1]
    hidden_BxTxD = phi.hidden_states(
        params,
        inputs_BxT,
        config,
        segments_BxT=None if document_end is None else segments_of(inputs_BxT, document_end),
        attend=sharded_attention(config, cut),
        dropout_keys_B=dropout_keys_B,
        layout=cut,
    )
    return chunked_loss(params, hidden_BxTxD, tokens_BxT1[:, 1:], config, chunk, cut)


def chunked_loss(
    params: phi.Params,
    hidden_BxTxD: Array,
    targets_BxT: Array,
    config: phi.PhiConfig,
    chunk: int,
    cut: BatchCut,
) -> Array:
    """Mean next-token cross-entropy (nats), float32, with logits of only `chunk` positions alive at a time.

    Chunks run along the sequence, so that the batch keeps its sharding. T need not be a multiple of `chunk`.
    cut: how batch and parameters lie over a mesh.
    """
    forward = functools.partial(_loss_and_gradients, config=config, chunk=min(chunk, targets_BxT.shape[1]), cut=cut)
    loss = jax.custom_vjp(lambda *inputs: forward(*inputs)[0])
    loss.defvjp(forward, _backward)
    return loss(params["head"], hidden_BxTxD, targets_BxT)


Gradients = tuple[phi.Params, Array]  # by the head and by the hidden states


def _loss_and_gradients(
    head: phi.Params,
    hidden_BxTxD: Array,
    targets_BxT: Array,
    config: phi.PhiConfig,
    chunk: int,
    cut: BatchCut,
) -> tuple[Array, Gradients]:
    """The loss and its gradients at once: each chunk's logits are made once, and not a second time on the way back."""
    # In the compute dtype, and gathered along fsdp once and not for each chunk.
    gathered = parameter_shardings(("embed", "vocab"), cut.mesh, gathered=True)
    kernel_DxV = jax.lax.with_sharding_constraint(head["kernel"].astype(config.dtype), gathered)

    def add_chunk(sums: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
        hidden_WxRxSxD, targets_WxRxS = inputs
        logits_WxRxSxV = phi.logits({"head": {**head, "kernel": kernel_DxV}}, hidden_WxRxSxD, config)
        loss_W, d_logits_WxRxSxV = _chunk_loss(logits_WxRxSxV, targets_WxRxS)
        d_bias_WxV = d_logits_WxRxSxV.sum((1, 2))
        # In the compute dtype, as every gradient of an activation: two thirds of the head's FLOPs are these.
        d_logits_WxRxSxV = d_logits_WxRxSxV.astype(config.dtype)
        d_kernel_WxDxV = jnp.einsum(
            "wrsd,wrsv->wdv", hidden_WxRxSxD, d_logits_WxRxSxV, preferred_element_type=jnp.float32
        )
        d_hidden_WxRxSxD = jnp.einsum("wrsv,dv->wrsd", d_logits_WxRxSxV, kernel_DxV)
        return jax.tree.map(jnp.add, sums, (loss_W, d_kernel_WxDxV, d_bias_WxV)), d_hidden_WxRxSxD

    chunks = jax.tree.map(functools.partial(_chunks, chunk=chunk, ways=cut.ways), (hidden_BxTxD, targets_BxT), (0, -1))
    shapes = ((), head["kernel"].shape, head["bias"].shape)
    zeros = tuple(jnp.zeros((cut.ways, *shape), jnp.float32) for shape in shapes)
    (total_W, d_kernel_WxDxV, d_bias_WxV), d_hidden_CxWxRxSxD = jax.lax.scan(add_chunk, zeros, chunks)
    d_head = {"kernel": d_kernel_WxDxV.sum(0), "bias": d_bias_WxV.sum(0)}
    batch, length, width = hidden_BxTxD.shape
    d_hidden_BxTxD = jnp.moveaxis(d_hidden_CxWxRxSxD, 0, 2).reshape(batch, -1, width)[:, :length]
    return total_W.sum() / targets_BxT.size, (d_head, d_hidden_BxTxD)


def _backward(gradients: Gradients, d_loss: Array) -> tuple[phi.Params, Array, None]:
    batch, length, _ = gradients[1].shape
    scale = d_loss / (batch * length)
    return (*jax.tree.map(lambda d: (d * scale).astype(d.dtype), gradients), None)


def _chunks(x_BxTxX: Array, padding: int, chunk: int, ways: int) -> Array:
    """[C, W, R, chunk, ...] of an array [B, T, ...], the last chunk filled up with `padding`.

    W: the ways that the batch is cut over the mesh, B = W R. An axis of their own keeps the head's gradients of
    different devices apart until the last chunk is through; else each chunk would end with an all-reduce of [D, V].
    """
    batch, length, *rest = x_BxTxX.shape
    widths = ((0, 0), (0, -length % chunk), *((0, 0) for _ in rest))
    padded_BxTxX = jnp.pad(x_BxTxX, widths, constant_values=padding)
    return jnp.moveaxis(padded_BxTxX.reshape(ways, batch // ways, -1, chunk, *rest), 2, 0)


def _chunk_loss(logits_WxRxSxV: Array, targets_WxRxS: Array) -> tuple[Array, Array]:
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
