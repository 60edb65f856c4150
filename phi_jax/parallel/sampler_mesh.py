"""The sampler's slots over the devices of a mesh: rows apart along data and fsdp, weights cut along tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from phi_jax.errors import UserError
from phi_jax.model import decode, phi
from phi_jax.model.sampler import Devices
from phi_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class MeshDevices(Devices):
    """What model.sampler.Sampler takes as `devices`. Each part of the mesh along (data, fsdp) has slots of its own.

    It computes what one device alone would, so that where the tensor axis is 1 the devices' number changes no bit. The
    mesh must be of this process's devices.
    """

    mesh: Mesh

    @property
    def count(self) -> int:  # type: ignore[override]
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
        return jax.jit(lambda: make(self.count), out_shardings=meshes.batch_sharding(self.mesh))()

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


def all_devices() -> MeshDevices:
    """Every device of this process along the data axis."""
    return MeshDevices(meshes.make_mesh((-1, 1, 1), jax.local_devices()))
