"""The device mesh, the one table from a model's logical axis names to mesh axes, and where a batch's rows lie."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from phi_jax.errors import UserError
from phi_jax.model.phi import Layout, PhiConfig

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis name of a parameter -> mesh axis it is cut along; None = whole on every device.
# fsdp cuts the width D of every matrix, tensor cuts what Megatron cuts: heads, MLP columns, vocabulary.
AXIS_RULES = {
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}

# What the fields of a model's shape become by these rules.
_CUT = {"hidden_size": "fsdp", "num_heads": "tensor", "intermediate_size": "tensor", "vocab_size": "tensor"}

# A batch [B, ...] is cut along its first axis over every device that does not hold a part of the same tensors.
BATCH_AXES = ("data", "fsdp")


def make_mesh(shape: Sequence[int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `shape` devices along (data, fsdp, tensor); one entry may be -1, which takes what remains.

    devices: jax devices, or those of an ahead-of-time topology; all there are if None. Where they lie in several TPU
    slices, which only the slow network joins, the data axis runs across the slices and the others stay inside one.
    Raises UserError where the product is not the number of devices, or the slices do not divide the data axis.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _sizes(tuple(shape), devices)
    slices = len({getattr(d, "slice_index", 0) or 0 for d in devices})
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    if slices == 1:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=axis_types, devices=devices)
    if sizes[0] % slices:
        raise UserError(
            f"config.training.mesh={tuple(shape)}: its data axis of {sizes[0]} cannot be cut over the {slices} slices; "
            f"make it a multiple of {slices}"
        )
    from jax.experimental import mesh_utils

    inside = (sizes[0] // slices, *sizes[1:])
    across = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices)
    return Mesh(across, MESH_AXES, axis_types=axis_types)


def _sizes(shape: tuple[int, ...], devices: Sequence[Any]) -> tuple[int, ...]:
    known = math.prod(size for size in shape if size != -1)
    sizes = shape
    if shape.count(-1) == 1 and known > 0:
        sizes = tuple(len(devices) // known if size == -1 else size for size in shape)
    if len(shape) != len(MESH_AXES) or min(sizes) < 1 or math.prod(sizes) != len(devices):
        platform = devices[0].platform
        remedy = "; a CPU is cut into config.training.cpu_devices" if platform == "cpu" else ""
        raise UserError(
            f"config.training.mesh={shape}: the product of (data, fsdp, tensor) must be the number of devices, "
            f"which is {len(devices)} here ({platform}); one entry may be -1, for what remains{remedy}"
        )
    return sizes


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch [B, ...]."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_ways(mesh: Mesh) -> int:
    """Equal parts that the rows of a batch are cut into."""
    return BatchCut(mesh).ways


@dataclasses.dataclass(frozen=True)
class BatchCut(Layout):
    """How a batch, or a part of one, lies over a mesh: its rows are cut along `axes`."""

    mesh: Mesh
    axes: tuple[str, ...] = BATCH_AXES

    @property
    def ways(self) -> int:
        """Equal parts that the rows are cut into."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes)

    def rows(self, x_BxX: Array) -> Array:
        """Keeps an array [B, ...] cut along its rows."""
        return jax.lax.with_sharding_constraint(x_BxX, NamedSharding(self.mesh, PartitionSpec(self.axes)))

    def looked_up(self, x_BxTxD: Array) -> Array:
        """Keeps what an embedding gives, [B, T, D], cut along D as the embedding's rows are, and B over the rest."""
        width = AXIS_RULES["embed"]
        spec = PartitionSpec(tuple(axis for axis in self.axes if axis != width), None, width)
        return jax.lax.with_sharding_constraint(x_BxTxD, NamedSharding(self.mesh, spec))


def check_cut(mesh: Mesh, config: PhiConfig) -> None:
    """Raises UserError where the mesh cuts a field of a model's shape into no equal parts."""
    for field, axis in _CUT.items():
        size = getattr(config, field)
        if size % (ways := mesh.shape[axis]):
            raise UserError(
                f"config.model.{field}={size}: cannot be cut into {ways} equal parts; make the {axis} axis of "
                "config.training.mesh a divisor of it"
            )


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a global batch that lie on this process's devices, ascending."""
    parts: Any = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in parts for row in range(*rows.indices(batch_size))})


def parameter_shardings(logical_axes: Any, mesh: Mesh, *, gathered: bool = False) -> Any:
    """Maps a tree whose leaves are tuples of logical axis names to the same tree of shardings.

    gathered: where parameters lie while they are computed with: whole along fsdp, cut along tensor.
    Raises KeyError for an axis name that AXIS_RULES does not have.
    """

    def sharding(names: tuple[str, ...]) -> NamedSharding:
        axes = (AXIS_RULES[name] for name in names)
        return NamedSharding(mesh, PartitionSpec(*(None if gathered and axis == "fsdp" else axis for axis in axes)))

    return jax.tree.map(sharding, logical_axes, is_leaf=lambda x: isinstance(x, tuple))
