"""The sampler's slots over the devices of a mesh: rows apart along data and fsdp, weights cut along tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from phi_jax.errors import UserError
from phi_jax.model import decode, phi
from phi_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class MeshDevices:
    """What model.sampler.Sampler takes as `devices`. Each part of the mesh along (data, fsdp) has slots of its own.

    It computes what one device alone would, so that where the tensor axis is 1 the devices' number changes no bit. The
    mesh must be of this process's devices: see `local_mesh`.
    """

    mesh: Mesh

    @property
    def count(self) -> int:
        return meshes.batch_ways(self.mesh)

    def weights(self, params: phi.Params, config: phi.PhiConfig) -> decode.Weights:
        """Whole along (data, fsdp), however the parameters lie. Raises UserError where tensor cuts no equal parts."""
        tensor = self.mesh.shape["tensor"]
        for field in ("num_heads", "intermediate_size", "vocab_size"):
            if getattr(config, field) % tensor:
                raise UserError(
                    f"config.model.{field}={getattr(config, field)}: cannot be cut into {tensor} equal parts; make the "
                    "tensor axis of config.training.mesh a divisor of it"
                )
        shardings = meshes.parameter_shardings(decode.weight_axes(config), self.mesh)
        return jax.jit(decode.weights_of, static_argnums=1, out_shardings=shardings)(params, config)

    def empty(self, make: Callable[[int], decode.State]) -> decode.State:
        return jax.jit(lambda: make(self.count), out_shardings=self._rows)()

    def program(self, function: Callable[..., Any]) -> Callable[..., Any]:
        rows, whole = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()
        apart = jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(whole, rows, rows),
            out_specs=rows,
            axis_names=set(meshes.BATCH_AXES),
            check_vma=False,
        )
        return jax.jit(apart, donate_argnums=1)

    @property
    def _rows(self) -> NamedSharding:
        return meshes.batch_sharding(self.mesh)


def all_devices() -> MeshDevices:
    """Every device of this process along the data axis."""
    return MeshDevices(meshes.make_mesh((-1, 1, 1), jax.local_devices()))


def local_mesh(mesh: Mesh) -> Mesh:
    """The part of a mesh that is this process's: the same axes, fewer along data and fsdp.

    Raises UserError where the tensor axis runs across processes.
    """
    here = np.vectorize(lambda device: device.process_index == jax.process_index())(mesh.devices)
    if not (here.all(axis=2) == here.any(axis=2)).all():
        raise UserError(
            "config.training.pass_every: the tensor axis of config.training.mesh runs across processes, where "
            "completions cannot be decoded; make it a divisor of one process's devices, or set pass_every=0"
        )
    rows = mesh.devices[here].reshape(-1, mesh.shape["tensor"])
    return Mesh(rows[:, None, :], mesh.axis_names, axis_types=(AxisType.Auto,) * 3)


def local_params(params: phi.Params, config: phi.PhiConfig, mesh: Mesh) -> phi.Params:
    """Parameters that lie over all processes, as arrays over this process's part of the mesh: whole along (data, fsdp),
    cut along tensor, in the compute dtype where they are matrices' kernels or embeddings. Every process must call it.
    """
    gathered = jax.jit(lambda tree: tree, out_shardings=_gathered(config, mesh))(params)
    if jax.process_count() == 1:
        return gathered
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_single_device_arrays(
            x.shape, sharding, [shard.data for shard in x.addressable_shards]
        ),
        gathered,
        _gathered(config, local_mesh(mesh)),
    )


def _gathered(config: phi.PhiConfig, mesh: Mesh) -> Any:
    """The sharding of each parameter: whole along (data, fsdp), cut along tensor."""
    return jax.tree.map(
        lambda names: meshes.gathered_sharding(names, mesh),
        phi.logical_axes(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )
