"""Twelve steps of a small model with dropout, in bits: what tests/golden/training_step.json holds.

    python tests/training_step.py [DEVICES]

Prints, for each mesh of so many pretended devices, the losses as hexadecimal floats and a hash of the parameters.
Bits depend on the platform that the file names too: jax's version, the CPU's vectors and its number of cores.
"""

import hashlib
import json
import os
import platform
import sys
from pathlib import Path

from running import ROOT, UNOPTIMISED

MESHES = {1: [(1, 1, 1)], 2: [(2, 1, 1), (1, 2, 1), (1, 1, 2)]}
STEPS = 12
RULES = {
    "optimizer": "adamw", "learning_rate": 1e-2, "warmup_steps": 3, "schedule_steps": 20, "beta1": 0.9, "beta2": 0.98,
    "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0, "microbatches": 2, "loss_chunk": 16, "skip_spike": 10.0,
}  # fmt: skip


def here():
    """The platform, as far as it decides the last bits."""
    import jax

    cpu = Path("/proc/cpuinfo")
    vectors = "avx512" if cpu.exists() and "avx512f" in cpu.read_text() else "no avx512"
    return f"jax {jax.__version__}, {platform.machine()}, {vectors}, {os.cpu_count()} cores"


def trained(sizes):
    """{"losses": of each step, in hexadecimal, "parameters": SHA-256 of their bytes after the last}."""
    import jax
    import numpy as np

    from phi_jax.config import Config
    from phi_jax.model import phi
    from phi_jax.parallel.mesh import batch_sharding, make_mesh
    from phi_jax.training.optimizer import make_optimizer
    from phi_jax.training.step import init_state, make_train_step, state_shardings

    shape = phi.PhiConfig(
        vocab_size=308, hidden_size=32, intermediate_size=96, num_layers=3, num_heads=4, head_dim=8, rotary_dim=4,
        max_seq_len=40, attention_dropout=0.1, residual_dropout=0.1,
    )  # fmt: skip
    rules, mesh = Config(RULES), make_mesh(sizes)
    optimizer = make_optimizer(rules)
    step = make_train_step(shape, optimizer, mesh, rules, seed=5, document_end=3)
    state = jax.jit(lambda: init_state(shape, optimizer, 5), out_shardings=state_shardings(shape, optimizer, mesh))()
    rng, losses, digest = np.random.default_rng(0), [], hashlib.sha256()
    for _ in range(STEPS):
        tokens = rng.integers(0, shape.vocab_size, (8, shape.max_seq_len + 1)).astype(np.int32)
        state, figures = step(state, jax.device_put(tokens, batch_sharding(mesh)))
        losses.append(float(figures["loss"]).hex())
    for path, value in jax.tree_util.tree_leaves_with_path(state["params"]):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(value).tobytes())
    return {"losses": losses, "parameters": digest.hexdigest()}


def main():
    devices = int(sys.argv[1])
    golden = json.loads((ROOT / "tests" / "golden" / "training_step.json").read_text())
    flags = "" if here() == golden["platform"] else UNOPTIMISED  # bits are compared on that platform alone
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices} {flags}"
    found = {"x".join(map(str, sizes)): trained(sizes) for sizes in MESHES[devices]}
    print(json.dumps({"platform": here(), "meshes": found}))


if __name__ == "__main__":
    main()
