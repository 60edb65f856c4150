"""AdamW (paper, section 2.3), or Muon beside it, with linear warmup and linear decay."""

import functools
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers

from phi_jax.config import Config

ADAMW, MUON = "adamw", "muon"  # values of config.training.optimizer
_RMS = 0.2  # of Muon's update of a matrix, before the rate: about that of AdamW's (arXiv 2502.16982, section 2.2)
# Axes of a block's kernel, stacked over layers (axis 0), that a product sums over and gives; of q, k, v those of `fc1`
# with the heads. Each layer is a matrix of its own.
_AXES = {
    **dict.fromkeys(("q", "k", "v"), MuonDimensionNumbers(1, (2, 3))),
    "out": MuonDimensionNumbers((1, 2), 3),
    **dict.fromkeys(("fc1", "fc2"), MuonDimensionNumbers(1, 2)),
}


def learning_rate_schedule(training: Config, peak: float | None = None) -> optax.Schedule:
    """Step (from 0) -> learning rate: linear from 0 over warmup_steps, then linear to 0 at schedule_steps.

    The first step uses 1/warmup_steps of the peak: a step at rate 0 would be wasted. peak: None for learning_rate.
    """
    peak, warmup, total = peak or training.learning_rate, training.warmup_steps, training.schedule_steps
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    fall = optax.linear_schedule(peak, 0.0, max(total - warmup, 1))
    return optax.join_schedules([rise, fall], [warmup])


def make_optimizer(training: Config, mesh: Mesh | None = None) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW; with `optimizer` "muon", Muon on the blocks' kernels and AdamW on the rest.

    The paper names AdamW and its weight decay, not which tensors decay: here matrices and embeddings do, biases
    and LayerNorm parameters do not, as in GPT-3 and its successors.

    Muon is optax's, with its momentum of 0.95 and five Newton-Schulz steps. Ours: its rate (muon_learning_rate) follows
    the same warmup and decay; its decoupled weight decay (muon_weight_decay) is times that rate, as AdamW's is; it sees
    gradients clipped as AdamW's, which its orthogonal updates hardly notice, so that one spike moves the momentum of
    neither. mesh: over whose devices Muon's layers are shared out; None computes the same.
    """

    def decays(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "tokens"), params)

    chosen = optax.adamw(
        learning_rate_schedule(training),
        b1=training.beta1,
        b2=training.beta2,
        eps=training.epsilon,
        weight_decay=training.weight_decay,
        mask=decays,
    )
    if training.optimizer == MUON:
        muon = optax.contrib.muon(
            learning_rate_schedule(training, training.muon_learning_rate),
            weight_decay=training.muon_weight_decay,
            consistent_rms=_RMS,
            muon_weight_dimension_numbers=functools.partial(jax.tree_util.tree_map_with_path, _axes_of),
        )
        muon = _shared_out(muon, mesh) if mesh else muon
        chosen = optax.partition({MUON: muon, ADAMW: chosen}, _whose)
    clip = training.clip_norm
    return optax.chain(optax.clip_by_global_norm(clip), chosen) if clip else chosen


def _shared_out(muon: optax.GradientTransformation, mesh: Mesh) -> optax.GradientTransformation:
    """Muon with whole layers on each device, where the mesh divides them: left to itself, each device of the data axis
    orthogonalises all (an eighth of nano's step on two), and those of the others exchange pieces of every product.
    """
    layers = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        cut = jax.tree.map(
            lambda g: g if g.shape[0] % mesh.size else jax.lax.with_sharding_constraint(g, layers), grads
        )
        return muon.update(cut, state, params)

    return optax.GradientTransformation(muon.init, update)


def _axes_of(path: Any, _: Any) -> MuonDimensionNumbers | None:
    """The axes of a kernel of the blocks; None for another parameter."""
    *_, owner, last = (key.key for key in path)
    return _AXES.get(owner) if last == "kernel" else None  # the head's kernel has no entry


def _whose(params: Any) -> Any:
    """For each parameter the optimizer that moves it."""
    return jax.tree_util.tree_map_with_path(lambda *leaf: MUON if _axes_of(*leaf) else ADAMW, params)
