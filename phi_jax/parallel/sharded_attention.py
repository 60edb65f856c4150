"""The attention kernel over a mesh: each device attends for its own rows and heads, and nothing is exchanged."""

import functools

import jax
from jax.sharding import Mesh, PartitionSpec

from phi_jax.model.attention import FUSED, Attend, attend_splash, check_kernel_on
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import AXIS_RULES, BATCH_AXES, check_cut


def sharded_attention(
    config: PhiConfig, mesh: Mesh, *, batch_axes: tuple[str, ...] = BATCH_AXES, interpret: bool = False
) -> Attend | None:
    """What phi.hidden_states takes as `attend` for arrays over this mesh; None for `xla`, which XLA cuts by itself.

    batch_axes: the mesh axes that rows are cut along.
    interpret: run `splash` in Pallas' interpreter on whatever devices there are; for tests.
    Raises UserError where the mesh's devices do not have the kernel, or its tensor axis does not divide the heads.
    """
    name = config.attention
    if name == "xla":
        return None
    kernel = FUSED[name]
    if name == "splash" and interpret:
        kernel = functools.partial(attend_splash, interpret=True)
    else:
        check_kernel_on(name, mesh.devices.flat[0].platform)
    check_cut(mesh, config, ["num_heads"])
    heads_spec = PartitionSpec(batch_axes, None, AXIS_RULES["heads"], None)
    # XLA cannot cut a custom call by itself: it would gather every row and head on every device.
    return jax.shard_map(
        kernel,
        mesh=mesh,
        in_specs=(heads_spec, heads_spec, heads_spec, PartitionSpec(batch_axes)),
        out_specs=heads_spec,
        check_vma=False,  # Pallas' calls do not say along which axes their results vary
    )
