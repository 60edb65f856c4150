"""Gradient accumulation: a batch in several microbatches, whose gradients are exchanged along data once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from phi_jax.model.phi import Params

# (params, a part of a batch, its rows cut along fsdp alone) -> (mean loss [], its gradients)
LossAndGrads = Callable[[Params, Any], tuple[jax.Array, Params]]


def accumulate(
    loss_and_grads: LossAndGrads, params: Params, batch: Any, microbatches: int, mesh: Mesh, shardings: Any
) -> tuple[jax.Array, Params]:
    """(mean loss [], mean gradients) over equal parts of a batch, a tree of arrays [B, ...], one part at a time.

    Along the mesh's data axis, whose devices hold the same parameters, each way adds up gradients of its own and they
    are exchanged after the last part. Left to itself, XLA would exchange them after each.
    shardings: those of the parameters.
    """
    ways = mesh.shape["data"]

    def cut(x_BxX: jax.Array) -> jax.Array:
        # [A, W, b, ...], where row r of way w in part a is row w B/W + r A + a. So each row stays on its device;
        # reshape(A, W, ...) would lay the parts over the devices.
        x_WxbxAxX = x_BxX.reshape(ways, -1, microbatches, *x_BxX.shape[1:])
        return jnp.moveaxis(x_WxbxAxX, 2, 0)

    def by_way(part_Wxb: Any) -> tuple[jax.Array, Params]:
        if ways == 1:
            found = loss_and_grads(params, jax.tree.map(lambda x_1xb: x_1xb[0], part_Wxb))
            return jax.tree.map(lambda x: x[None], found)
        return jax.vmap(loss_and_grads, in_axes=(None, 0), spmd_axis_name="data")(params, part_Wxb)

    def add(sums: Any, part_Wxb: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, by_way(part_Wxb)), None

    def zeros(p: jax.Array, sharding: NamedSharding) -> jax.Array:
        apart = NamedSharding(mesh, PartitionSpec("data", *sharding.spec))
        return jax.lax.with_sharding_constraint(jnp.zeros((ways, *p.shape), p.dtype), apart)

    start = (jnp.zeros(ways, jnp.float32), jax.tree.map(zeros, params, shardings))
    sums, _ = jax.lax.scan(add, start, jax.tree.map(cut, batch))
    return jax.tree.map(lambda x_W: x_W.sum(0) / (ways * microbatches), sums)
