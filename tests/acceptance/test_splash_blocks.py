"""Splash's blocks by the instructions that libtpu schedules for them, without a TPU. Writes splash_blocks.json.

    pip install -e '.[plan]' && pytest tests/acceptance/test_splash_blocks.py

Of each kernel the compiler dumps its instruction words ("bundles"), of which a core issues at most one a cycle. A
kernel runs once for each pair of blocks that the causal mask leaves something of. The product is what a head costs: a
count, not a time. It knows nothing of waiting for memory, nor of the sum over the parts of dq that one backward kernel
leaves.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[plan]'"),
]

LENGTH, HEADS, WIDTH = 2048, 32, 64  # of phi-1
COMPILE = f"""
import sys
from phi_jax.planning.hardware import parse_hardware, topology_devices
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jax.experimental.pallas.ops.tpu import splash_attention as splash
hardware, block, part, fused = sys.argv[1], *map(int, sys.argv[2:])
sharding = SingleDeviceSharding(topology_devices(parse_hardware(hardware))[0])
apart = dict(use_fused_bwd_kernel=True) if fused else dict(block_q_dq=block, block_kv_dq=block)
sizes = splash.BlockSizes(
    block_q=block, block_kv=block, block_kv_compute=part, block_q_dkv=block, block_kv_dkv=block,
    block_kv_dkv_compute=part, **apart,
)
def loss(q, k, v, segments):
    mask = splash.MultiHeadMask([splash.CausalMask(({LENGTH}, {LENGTH}))] * {HEADS})
    kernel = splash.make_splash_mha_single_device(mask, block_sizes=sizes)
    return jnp.sum(kernel(q, k, v, splash.SegmentIds(q=segments, kv=segments)).astype(jnp.float32))
array = jax.ShapeDtypeStruct(({HEADS}, {LENGTH}, {WIDTH}), jnp.bfloat16, sharding=sharding)
segments = jax.ShapeDtypeStruct(({LENGTH},), jnp.int32, sharding=sharding)
jax.jit(jax.grad(loss, (0, 1, 2))).lower(array, array, array, segments).compile()
"""
# (block, positions of k multiplied at once, whether one kernel is the whole backward pass)
BLOCKS = [(256, 256, 0), (512, 512, 0), (1024, 512, 0), (1024, 1024, 0), (512, 512, 1), (1024, 512, 1)]
OURS = (1024, 512, 1)


def instructions(folder, devices, block, part, fused):
    """Of a head, by kernel."""
    from phi_jax.planning.hardware import LIBTPU_ENVIRONMENT

    flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
    environment = {**os.environ, **LIBTPU_ENVIRONMENT, "JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": flags}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", COMPILE, devices, *map(str, (block, part, fused))]
    subprocess.run(command, check=True, env=environment)
    blocks = LENGTH // block
    runs = blocks * (blocks + 1) // 2
    found = {}
    for path in folder.glob("*splash_mha_*schedule-analysis_final_bundles.txt"):
        kernel = re.search(r"splash_mha_(fwd|dq|dkv)", path.name)[1]
        found[kernel] = runs * int(re.search(r"total scheduled bundles:\s+(\d+)", path.read_text())[1])
    return found


@pytest.mark.parametrize("devices", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_our_blocks_take_the_fewest_instructions(devices, tmp_path):
    place = Path(__file__).with_name("splash_blocks.json")
    cases = json.loads(place.read_text()) if place.exists() else {}
    for block, part, fused in BLOCKS if devices == "v5e:2x2" else [BLOCKS[1], *BLOCKS[-2:]]:
        found = instructions(tmp_path / f"{block}-{part}-{fused}", devices, block, part, fused)
        assert {"fwd", "dkv"} <= set(found)
        name = f"{devices} blocks of {block}, {part} of k at once, {2 - fused} backward"
        cases[name] = {**found, "all": sum(found.values())}
        place.write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")
    ours = cases[f"{devices} blocks of {OURS[0]}, {OURS[1]} of k at once, {2 - OURS[2]} backward"]["all"]
    assert ours == min(case["all"] for name, case in cases.items() if name.startswith(devices))
