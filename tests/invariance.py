"""Trains a tiny model in many ways that must not matter, beside one device; run with eight pretended CPU devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/invariance.py WAYS > found.jsonl

WAYS is a JSON list of dicts with the keys of FACTORS; each line of the output adds "losses" and what they should have
been, and "gradient_error": the largest difference of a gradient of the first step, as a share of the largest.
"""

import itertools
import json
import sys

FACTORS = {
    "mesh": [(8, 1, 1), (1, 8, 1), (1, 4, 2), (2, 2, 2)],
    "scan_unroll": [1, 2],
    "remat": ["none", "dots", "full"],
    "microbatches": [1, 4],
    "loss_chunk": [8, 3],
    "dropout": [0.0, 0.1],
    "optimizer": ["sgd", "muon"],
}
STEPS, LEARNING_RATE = 10, 0.5
MUON = {
    "optimizer": "muon", "learning_rate": 1e-2, "muon_learning_rate": 1e-2, "muon_weight_decay": 0.1, "warmup_steps": 1,
    "schedule_steps": 20, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0,
}  # fmt: skip


def every_way():
    return [dict(zip(FACTORS, values, strict=True)) for values in itertools.product(*FACTORS.values())]


def pairwise():
    """Ways in which every two values of two factors meet at least once; greedy, so a few more than the fewest.

    Of the meshes, those that cut along tensor: tests/golden/training_step.json has the others. Muon, which compiles
    long, meets each of them once: it sees gradients only.
    """
    meshes = [sizes for sizes in FACTORS["mesh"] if sizes[2] > 1]
    ways = [way for way in every_way() if way["mesh"] in meshes and way["optimizer"] == "sgd"]

    def pairs(way):
        return set(itertools.combinations(way.items(), 2))

    missing, chosen = set().union(*map(pairs, ways)), []
    while missing:
        chosen.append(max(ways, key=lambda way: len(pairs(way) & missing)))
        missing -= pairs(chosen[-1])
    return chosen + [{**chosen[0], "mesh": sizes, "microbatches": 4, "optimizer": "muon"} for sizes in meshes]


def control_of(way):
    """One device, nothing recomputed or accumulated."""
    plain = {"mesh": (1, 1, 1), "scan_unroll": 1, "remat": "none", "microbatches": 1, "loss_chunk": 8}
    return {**plain, "dropout": way["dropout"], "optimizer": way["optimizer"]}


def trained(way):
    """(losses of STEPS steps, gradients of the first step; with Muon, what that changed of the kernels it moves: of the
    other parameters AdamW's first step is a sign, that of rounding where a gradient is 0).
    """
    import jax
    import numpy as np
    import optax

    from phi_jax.config import Config
    from phi_jax.model import phi
    from phi_jax.parallel.mesh import batch_sharding, make_mesh
    from phi_jax.training.optimizer import make_optimizer
    from phi_jax.training.step import init_state, make_train_step, state_shardings

    layers = 8 if way["optimizer"] == "muon" else 2  # eight are shared out over the devices
    shape = phi.PhiConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_layers=layers, num_heads=2, head_dim=8, rotary_dim=4,
        max_seq_len=8, scan_unroll=way["scan_unroll"], remat=way["remat"], attention_dropout=way["dropout"],
        residual_dropout=way["dropout"],
    )  # fmt: skip
    sizes = tuple(way["mesh"])
    mesh = make_mesh(sizes, jax.devices()[: int(np.prod(sizes))])
    # With SGD a step is the gradient itself; and half of Adam's time to compile.
    optimizer = optax.sgd(LEARNING_RATE) if way["optimizer"] == "sgd" else make_optimizer(Config(MUON), mesh)
    rules = Config({"microbatches": way["microbatches"], "loss_chunk": way["loss_chunk"], "skip_spike": 0.0})
    step = make_train_step(shape, optimizer, mesh, rules, seed=0)
    shardings = state_shardings(shape, optimizer, mesh)
    state = jax.jit(lambda: init_state(shape, optimizer, 0), out_shardings=shardings)()
    batch = np.random.default_rng(0).integers(0, 64, (32, 9), np.int32)
    before = jax.tree.map(np.asarray, state["params"])
    losses, gradients = [], None
    for _ in range(STEPS):
        state, figures = step(state, jax.device_put(batch, batch_sharding(mesh)))
        losses.append(float(figures["loss"]))
        if gradients is None:
            after = jax.tree.map(np.asarray, state["params"])
            gradients = jax.tree.map(lambda a, b: (a - b) / LEARNING_RATE, before, after)
    assert step._cache_size() == 1
    kernel = state["params"]["layers"]["mlp"]["fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.size * sizes[1] * sizes[2] == kernel.size
    moments = [x for x in jax.tree.leaves(state["optimizer"]) if x.shape == kernel.shape]
    assert len(moments) == (way["optimizer"] == "muon")
    assert all(moment.sharding == kernel.sharding for moment in moments)
    if way["optimizer"] == "muon":
        gradients = [layer["kernel"] for of in ("attention", "mlp") for layer in gradients["layers"][of].values()]
    return losses, jax.tree.leaves(gradients)


def main():
    controls = {}
    for way in json.loads(sys.argv[1]):
        control = control_of(way)
        key = json.dumps(control)
        if key not in controls:
            controls[key] = trained(control)
        (losses, gradients), (wanted_losses, wanted) = trained(way), controls[key]
        largest = max(abs(w).max() for w in wanted)
        error = max(abs(g - w).max() for g, w in zip(gradients, wanted, strict=True)) / largest
        print(
            json.dumps({**way, "losses": losses, "control": wanted_losses, "gradient_error": float(error)}), flush=True
        )


if __name__ == "__main__":
    main()
