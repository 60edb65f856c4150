"""The attention kernel over a mesh: each device attends for its own rows and heads, and nothing is exchanged."""

import jax
from jax.sharding import PartitionSpec

from phi_jax.model.attention import FUSED, Attend, check_kernel_on
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import AXIS_RULES, BatchCut, check_cut


def sharded_attention(config: PhiConfig, cut: BatchCut) -> Attend | None:
    """What phi.hidden_states takes as `attend` for arrays that lie so; None for `xla`, which XLA cuts by itself.

    Raises UserError where the mesh's devices do not have the kernel, or its axes do not divide the model.
    """
    name = config.attention
    if name == "xla":
        return None
    check_kernel_on(name, cut.mesh.devices.flat[0].platform)
    check_cut(cut.mesh, config)
    heads_spec = PartitionSpec(cut.axes, None, AXIS_RULES["heads"], None)
    # XLA cannot cut a custom call by itself: it would gather every row and head on every device.
    return jax.shard_map(
        FUSED[name],
        mesh=cut.mesh,
        in_specs=(heads_spec, heads_spec, heads_spec, PartitionSpec(cut.axes)),
        out_specs=heads_spec,
        check_vma=False,  # Pallas' calls do not say along which axes their results vary
    )
