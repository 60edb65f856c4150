"""The device mesh, and the one table from a model's logical axis names to mesh axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from phi_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis name of a parameter -> mesh axis it is cut along; None = whole on every device.
# fsdp cuts the width D of every matrix, tensor cuts what Megatron cuts: heads, MLP columns, vocabulary.
AXIS_RULES: dict[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}

# A batch [B, ...] is cut along its first axis over every device that does not hold a part of the same tensors.
BATCH_SPEC = PartitionSpec(("data", "fsdp"))


def make_mesh(shape: Sequence[int]) -> Mesh:
    """A mesh of `shape` devices along (data, fsdp, tensor).

    Raises UserError where the product is not the number of devices.
    """
    devices = jax.device_count()
    if len(shape) != len(MESH_AXES) or math.prod(shape) != devices:
        raise UserError(
            f"config.training.mesh={tuple(shape)}: the product of (data, fsdp, tensor) must be the number of "
            f"devices, which is {devices} here ({jax.devices()[0].platform})"
        )
    return jax.make_mesh(tuple(shape), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch [B, T]."""
    return NamedSharding(mesh, BATCH_SPEC)


def parameter_shardings(logical_axes: Any, mesh: Mesh) -> Any:
    """Maps a tree whose leaves are tuples of logical axis names to the same tree of shardings.

    Raises KeyError for an axis name that AXIS_RULES does not have.
    """

    def sharding(names: tuple[str, ...]) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(AXIS_RULES[name] for name in names)))

    return jax.tree.map(sharding, logical_axes, is_leaf=lambda x: isinstance(x, tuple))
