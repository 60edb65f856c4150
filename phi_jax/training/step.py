"""One optimizer step over a plain dict of arrays: chunked loss, microbatches, AdamW."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from phi_jax.model import phi
from phi_jax.model.attention import Attend, segments_of
from phi_jax.parallel import mesh as meshes
from phi_jax.parallel.attention import sharded_attention

# {"params": Params, "optimizer": optax state, "step": int32 [], "skipped" and
# "skipped_in_a_row": int32 [] (steps), "usual_grad_norm": float32 [] (running mean)}
State = dict[str, Any]
_NORM_STEPS = 100  # steps over which the running mean of the gradient norm forgets


def chunked_loss(
    params: phi.Params,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Mean next-token cross-entropy (nats), float32, with logits of only `chunk` positions alive at a time.

    Chunks run along the sequence, so that the batch keeps its sharding. T need not be a multiple of `chunk`.
    mesh: what the batch and the parameters are cut over; None: one device.
    """
    return _chunked_loss(params["head"], hidden_BxTxD, targets_BxT, config, min(chunk, hidden_BxTxD.shape[1]), mesh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _chunked_loss(
    head: phi.Params,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    mesh: Mesh | None,
) -> jax.Array:
    head = _compute_head(head, config, mesh)

    def add_chunk(total: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        hidden_WxRxSxD, targets_WxRxS = inputs
        return total + _chunk_loss(phi.logits({"head": head}, hidden_WxRxSxD, config), targets_WxRxS)[0], None

    chunks = _chunks(hidden_BxTxD, targets_BxT, chunk, mesh)
    total_W, _ = jax.lax.scan(add_chunk, jnp.zeros(chunks[0].shape[1], jnp.float32), chunks)
    return total_W.sum() / targets_BxT.size


def _chunked_loss_forward(
    head: phi.Params,
    hidden_BxTxD: jax.Array,
    targets_BxT: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    mesh: Mesh | None,
) -> tuple[jax.Array, tuple[phi.Params, jax.Array]]:
    """The loss and its gradients at once: each chunk's logits are made once, and not a second time on the way back."""
    compute_head = _compute_head(head, config, mesh)

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
    chunks = _chunks(hidden_BxTxD, targets_BxT, chunk, mesh)
    ways = chunks[0].shape[1]
    zeros = tuple(jnp.zeros((ways, *shape), jnp.float32) for shape in ((), head["kernel"].shape, head["bias"].shape))
    (total_W, d_kernel_WxDxV, d_bias_WxV), d_hidden_CxWxRxSxD = jax.lax.scan(add_chunk, zeros, chunks)
    d_head = {"kernel": d_kernel_WxDxV.sum(0), "bias": d_bias_WxV.sum(0)}
    d_hidden_BxTxD = jnp.moveaxis(d_hidden_CxWxRxSxD, 0, 2).reshape(batch, -1, width)[:, :length]
    return total_W.sum() / targets_BxT.size, (d_head, d_hidden_BxTxD)


def _chunked_loss_backward(
    config: phi.PhiConfig,
    chunk: int,
    mesh: Mesh | None,
    gradients: tuple[phi.Params, jax.Array],
    d_loss: jax.Array,
) -> tuple[phi.Params, jax.Array, None]:
    d_head, d_hidden_BxTxD = gradients
    scale = d_loss / (d_hidden_BxTxD.shape[0] * d_hidden_BxTxD.shape[1])
    return (*jax.tree.map(lambda d: (d * scale).astype(d.dtype), (d_head, d_hidden_BxTxD)), None)


_chunked_loss.defvjp(_chunked_loss_forward, _chunked_loss_backward)


def _compute_head(head: phi.Params, config: phi.PhiConfig, mesh: Mesh | None) -> phi.Params:
    """The head in the compute dtype, gathered along fsdp once and not for each chunk."""
    kernel_DxV = head["kernel"].astype(config.dtype)
    if mesh is not None:
        kernel_DxV = jax.lax.with_sharding_constraint(kernel_DxV, meshes.gathered_sharding(("embed", "vocab"), mesh))
    return {**head, "kernel": kernel_DxV}


def _chunks(
    hidden_BxTxD: jax.Array, targets_BxT: jax.Array, chunk: int, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """(hidden [C, W, R, chunk, D], targets [C, W, R, chunk]), the last chunk filled up with targets of -1.

    W: the ways that the batch is cut over the mesh, B = W R. An axis of their own keeps the head's gradients of
    different devices apart until the last chunk is through; else each chunk would end with an all-reduce of [D, V].
    """
    batch, length, width = hidden_BxTxD.shape
    ways = 1 if mesh is None else meshes.batch_ways(mesh)
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


def batch_loss(
    params: phi.Params,
    tokens_BxT1: jax.Array,
    config: phi.PhiConfig,
    chunk: int,
    dropout_key: jax.Array | None = None,
    *,
    attend: Attend | None = None,
    document_end: int | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Mean loss of a batch of records [B, seq_len + 1] int32: each position predicts the next token.

    attend: see phi.hidden_states. document_end: the end-of-text token, where attention is to stay within a document.
    mesh: see chunked_loss.
    """
    inputs_BxT = tokens_BxT1[:, :-1]
    segments_BxT = None if document_end is None else segments_of(inputs_BxT, document_end)
    keep_rows = None
    if mesh is not None:
        keep_rows = functools.partial(jax.lax.with_sharding_constraint, shardings=meshes.batch_sharding(mesh))
    hidden_BxTxD = phi.hidden_states(
        params,
        inputs_BxT,
        config,
        segments_BxT=segments_BxT,
        attend=attend,
        dropout_key=dropout_key,
        keep_rows=keep_rows,
    )
    return chunked_loss(params, hidden_BxTxD, tokens_BxT1[:, 1:], config, chunk, mesh)


def init_state(config: phi.PhiConfig, optimizer: optax.GradientTransformation, seed: int) -> State:
    """Fresh parameters and optimizer state; float32, a function of the seed alone."""
    params = phi.init_params(config, jax.random.key(seed))
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
        "skipped_in_a_row": jnp.zeros((), jnp.int32),
        "usual_grad_norm": jnp.zeros((), jnp.float32),
    }


def state_shardings(config: phi.PhiConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> Any:
    """The sharding of each leaf of the state: Adam's moments lie where their parameters lie."""
    by_parameter = meshes.parameter_shardings(phi.logical_axes(config), mesh)
    abstract = jax.eval_shape(lambda: init_state(config, optimizer, 0))
    whole = meshes.replicated(mesh)
    return {
        "params": by_parameter,
        "optimizer": optax.tree_utils.tree_map_params(
            optimizer,
            lambda _, sharding: sharding,
            abstract["optimizer"],
            by_parameter,
            transform_non_params=lambda _: whole,
        ),
        "step": whole,
        "skipped": whole,
        "skipped_in_a_row": whole,
        "usual_grad_norm": whole,
    }


def make_train_step(
    config: phi.PhiConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    microbatches: int,
    loss_chunk: int,
    seed: int,
    document_end: int | None = None,
    skip_spike: float = 0.0,
) -> jax.stages.Wrapped:
    """The jitted step: (state, tokens [B, seq_len + 1]) -> (state, figures []); the state is donated.

    Gradients are the mean over `microbatches` equal parts of the batch. Dropout is keyed by (seed, step,
    microbatch), so a resumed run draws what an undisturbed one would have drawn. document_end: see batch_loss.

    A step whose loss or gradient norm is not finite, or whose norm exceeds `skip_spike` times its running mean (0: no
    such bound), changes no parameter and no moment. Figures: "loss", "grad_norm" (before clipping), "skipped" (steps
    skipped so far, this one included), "skipped_in_a_row".
    """
    dropout = config.attention_dropout > 0 or config.residual_dropout > 0
    attend = sharded_attention(config, mesh)

    def microbatch_grads(params: phi.Params, tokens_bxT1: jax.Array, key: jax.Array) -> tuple[jax.Array, phi.Params]:
        return jax.value_and_grad(batch_loss)(
            params,
            tokens_bxT1,
            config,
            loss_chunk,
            key if dropout else None,
            attend=attend,
            document_end=document_end,
            mesh=mesh,
        )

    def train_step(state: State, tokens_BxT1: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        params = state["params"]
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        if microbatches == 1:
            loss, grads = microbatch_grads(params, tokens_BxT1, jax.random.fold_in(key, 0))
        else:
            batch, record = tokens_BxT1.shape
            # This order keeps the batch axis sharded; reshape(A, B // A, ...) would shard the microbatches.
            tokens_AxbxT1 = tokens_BxT1.reshape(batch // microbatches, microbatches, record).swapaxes(0, 1)

            def accumulate(sums: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
                index, tokens_bxT1 = inputs
                new = microbatch_grads(params, tokens_bxT1, jax.random.fold_in(key, index))
                return jax.tree.map(jnp.add, sums, new), None

            zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
            sums, _ = jax.lax.scan(accumulate, zeros, (jnp.arange(microbatches), tokens_AxbxT1))
            loss, grads = jax.tree.map(lambda x: x / microbatches, sums)
        norm = optax.tree.norm(grads)
        sound, usual = _is_sound(loss, norm, state["usual_grad_norm"], skip_spike)
        updates, optimizer_state = optimizer.update(grads, state["optimizer"], params)
        # A where, not a cond: both of a cond's sides would hold a whole state.
        kept = jax.tree.map(
            lambda new, old: jnp.where(sound, new, old),
            {"params": optax.apply_updates(params, updates), "optimizer": optimizer_state, "usual_grad_norm": usual},
            {k: state[k] for k in ("params", "optimizer", "usual_grad_norm")},
        )
        skipped = {
            "skipped": state["skipped"] + ~sound,
            "skipped_in_a_row": jnp.where(sound, 0, state["skipped_in_a_row"] + 1),
        }
        return {**kept, **skipped, "step": state["step"] + 1}, {**skipped, "loss": loss, "grad_norm": norm}

    shardings = state_shardings(config, optimizer, mesh)
    whole = meshes.replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(shardings, meshes.batch_sharding(mesh)),
        out_shardings=(shardings, dict.fromkeys(("loss", "grad_norm", "skipped", "skipped_in_a_row"), whole)),
        donate_argnums=0,
    )


def _is_sound(loss: jax.Array, norm: jax.Array, usual: jax.Array, skip_spike: float) -> tuple[jax.Array, jax.Array]:
    """(whether a step is to be taken, the running mean of the gradient norm with this step in it)."""
    sound = jnp.isfinite(loss) & jnp.isfinite(norm)
    if skip_spike:
        sound &= (usual == 0) | (norm <= skip_spike * usual)
    return sound, jnp.where(usual == 0, norm, usual + (norm - usual) / _NORM_STEPS)


def make_eval_step(
    config: phi.PhiConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    loss_chunk: int,
    document_end: int | None = None,
) -> jax.stages.Wrapped:
    """The jitted validation loss: (state, tokens [B, seq_len + 1]) -> mean loss []."""
    attend = sharded_attention(config, mesh)
    return jax.jit(
        lambda state, tokens: batch_loss(
            state["params"], tokens, config, loss_chunk, attend=attend, document_end=document_end, mesh=mesh
        ),
        in_shardings=(state_shardings(config, optimizer, mesh), meshes.batch_sharding(mesh)),
        out_shardings=meshes.replicated(mesh),
    )
