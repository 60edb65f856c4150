"""One optimizer step over a plain dict of arrays: microbatches, gradients, the optimizer."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from phi_jax.config import Config
from phi_jax.model import phi
from phi_jax.parallel import mesh as meshes
from phi_jax.parallel.mesh import BatchCut
from phi_jax.training.loss import batch_loss

# {"params": Params, "optimizer": optax state, "step": int32 [], "skipped" and
# "skipped_in_a_row": int32 [] (steps), "usual_grad_norm": float32 [] (running mean)}
State = dict[str, Any]
# (params, a part of a batch, its rows cut along fsdp alone) -> (mean loss [], its gradients)
LossAndGrads = Callable[[phi.Params, Any], tuple[Array, phi.Params]]
_NORM_STEPS = 100  # steps over which the running mean of the gradient norm forgets


def init_state(
    config: phi.PhiConfig, optimizer: optax.GradientTransformation, seed: int, params: phi.Params | None = None
) -> State:
    """Fresh parameters, where none are given, and optimizer state; float32, a function of the seed alone."""
    if params is None:
        params = phi.init_params(config, jax.random.key(seed))
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        **{name: jnp.zeros((), jnp.int32) for name in ("step", "skipped", "skipped_in_a_row")},
        "usual_grad_norm": jnp.zeros((), jnp.float32),
    }


def abstract_state(config: phi.PhiConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> State:
    """The state as jax.ShapeDtypeStruct with shardings: an optimizer's moments lie where their parameters lie.
    Allocates nothing.
    """
    by_parameter = meshes.parameter_shardings(phi.logical_axes(config), mesh)
    of_path = dict(jax.tree_util.tree_leaves_with_path(by_parameter))

    def placed(path: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # The path of a moment ends in its parameter's.
        ends = (path[start:] for start in range(len(path)))
        lies = next((of_path[end] for end in ends if end in of_path), meshes.replicated(mesh))
        return x.update(sharding=lies)

    return jax.tree_util.tree_map_with_path(placed, jax.eval_shape(lambda: init_state(config, optimizer, 0)))


def state_shardings(config: phi.PhiConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> Any:
    """The sharding of each leaf of the state."""
    return jax.tree.map(lambda x: x.sharding, abstract_state(config, optimizer, mesh))


def fresh_state(
    config: phi.PhiConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    params: phi.Params | None = None,
) -> State:
    """`init_state`, made where it lies; `params` are donated."""
    make = functools.partial(init_state, config, optimizer, seed)
    return jax.jit(make, out_shardings=state_shardings(config, optimizer, mesh), donate_argnums=0)(params)


def make_train_step(
    config: phi.PhiConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: Config,
    *,
    seed: int,
    document_end: int | None = None,
) -> jax.stages.Wrapped:
    """The jitted step: (state, tokens [B, seq_len + 1]) -> (state, figures []); the state is donated.

    rules: config.training, or what has its fields microbatches, loss_chunk and skip_spike. Gradients are the mean over
    `microbatches` equal parts of the batch. Dropout is keyed by (seed, step, row of the batch), so that neither a
    resumed run, nor accumulation, nor the mesh changes what is dropped. document_end: see loss.batch_loss.

    A step whose loss or gradient norm is not finite, or whose norm exceeds `skip_spike` times its running mean (0: no
    such bound), changes no parameter and no moment. Figures: "loss", "grad_norm" (before clipping), "skipped" (steps
    skipped so far, this one included), "skipped_in_a_row".
    """
    microbatches, skip_spike = rules.microbatches, rules.skip_spike
    dropout = config.attention_dropout > 0 or config.residual_dropout > 0
    # A microbatch, as accumulation hands it on, is cut along fsdp alone.
    cut = BatchCut(mesh) if microbatches == 1 else BatchCut(mesh, ("fsdp",))
    shardings = state_shardings(config, optimizer, mesh)
    loss_of = jax.value_and_grad(functools.partial(batch_loss, document_end=document_end, cut=cut))

    def loss_and_grads(params: phi.Params, part: tuple[Array, Array | None]) -> tuple[Array, phi.Params]:
        tokens_bxT1, keys_b = part
        return loss_of(params, tokens_bxT1, config, rules.loss_chunk, keys_b)

    def train_step(state: State, tokens_BxT1: Array) -> tuple[State, dict[str, Array]]:
        params = state["params"]
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        batch = (tokens_BxT1, jax.random.split(key, len(tokens_BxT1)) if dropout else None)
        if microbatches == 1:
            loss, grads = loss_and_grads(params, batch)
        else:
            loss, grads = _accumulate(loss_and_grads, params, batch, microbatches, mesh, shardings["params"])
        norm = optax.tree.norm(grads)
        sound, usual = _is_sound(loss, norm, state["usual_grad_norm"], skip_spike)
        updates, moments = optimizer.update(grads, state["optimizer"], params)
        new = {"params": optax.apply_updates(params, updates), "optimizer": moments, "usual_grad_norm": usual}
        # A where, not a cond: both of a cond's sides would hold a whole state.
        kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), new, {name: state[name] for name in new})
        skipped = {
            "skipped": state["skipped"] + ~sound,
            "skipped_in_a_row": jnp.where(sound, 0, state["skipped_in_a_row"] + 1),
        }
        return {**kept, **skipped, "step": state["step"] + 1}, {**skipped, "loss": loss, "grad_norm": norm}

    return jax.jit(
        train_step,
        in_shardings=(shardings, meshes.batch_sharding(mesh)),
        out_shardings=(shardings, meshes.replicated(mesh)),
        donate_argnums=0,
    )


def _accumulate(
    loss_and_grads: LossAndGrads, params: phi.Params, batch: Any, microbatches: int, mesh: Mesh, shardings: Any
) -> tuple[Array, phi.Params]:
    """(mean loss [], mean gradients) over equal parts of a batch, a tree of arrays [B, ...], one part at a time.

    Along the mesh's data axis, whose devices hold the same parameters, each way adds up gradients of its own and they
    are exchanged after the last part. Left to itself, XLA would exchange them after each.
    shardings: those of the parameters.
    """
    ways = mesh.shape["data"]

    def cut(x_BxX: Array) -> Array:
        # [A, W, b, ...], where row r of way w in part a is row w B/W + r A + a. So each row stays on its device;
        # reshape(A, W, ...) would lay the parts over the devices.
        x_WxbxAxX = x_BxX.reshape(ways, -1, microbatches, *x_BxX.shape[1:])
        return jnp.moveaxis(x_WxbxAxX, 2, 0)

    def by_way(part_Wxb: Any) -> tuple[Array, phi.Params]:
        if ways == 1:
            found = loss_and_grads(params, jax.tree.map(lambda x_1xb: x_1xb[0], part_Wxb))
            return jax.tree.map(lambda x: x[None], found)
        return jax.vmap(loss_and_grads, in_axes=(None, 0), spmd_axis_name="data")(params, part_Wxb)

    def add(sums: Any, part_Wxb: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, by_way(part_Wxb)), None

    def zeros(p: Array, sharding: NamedSharding) -> Array:
        apart = NamedSharding(mesh, PartitionSpec("data", *sharding.spec))
        return jax.lax.with_sharding_constraint(jnp.zeros((ways, *p.shape), p.dtype), apart)

    start = (jnp.zeros(ways, jnp.float32), jax.tree.map(zeros, params, shardings))
    sums, _ = jax.lax.scan(add, start, jax.tree.map(cut, batch))
    return jax.tree.map(lambda x_W: x_W.sum(0) / (ways * microbatches), sums)


def _is_sound(loss: Array, norm: Array, usual: Array, skip_spike: float) -> tuple[Array, Array]:
    """(whether a step is to be taken, the running mean of the gradient norm with this step in it)."""
    sound = jnp.isfinite(loss) & jnp.isfinite(norm)
    if skip_spike:
        sound &= (usual == 0) | (norm <= skip_spike * usual)
    return sound, jnp.where(usual == 0, norm, usual + (norm - usual) / _NORM_STEPS)


def make_eval_step(
    config: phi.PhiConfig,
    mesh: Mesh,
    rules: Config,
    *,
    document_end: int | None = None,
) -> jax.stages.Wrapped:
    """The jitted validation loss: (params, tokens [B, seq_len + 1]) -> mean loss [].

    Tokens of -1 are predicted by nothing, but count among those that the mean divides by.
    """
    loss = functools.partial(batch_loss, document_end=document_end, cut=BatchCut(mesh))
    return jax.jit(
        lambda params, tokens: loss(params, tokens, config, rules.loss_chunk),
        in_shardings=(meshes.parameter_shardings(phi.logical_axes(config), mesh), meshes.batch_sharding(mesh)),
        out_shardings=meshes.replicated(mesh),
    )
