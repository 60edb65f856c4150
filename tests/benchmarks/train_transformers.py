"""Our training step beside transformers' PhiForCausalLM on torch, compiled, on the same batches at the same precision.

    python tests/benchmarks/train_transformers.py --config configs/nano.py --out result.json

Needs pip install -e '.[peers]'.
"""

import math
import time

ATTENTIONS = ("sdpa", "sdpa without mask", "eager")
LOSS_TOLERANCE = 0.1  # nats, of a first loss


def ours(case):
    from phi_jax.bench.train_speed import measure

    return measure(**case)["figures"]


def peer(case, attention, compiled=True):
    """torch.compile on model and loss (full logits), bfloat16 autocast over float32 weights or plain float32, AdamW
    (fused) on the same split of decayed parameters, clipping. It never recomputes activations: `remat` is ours alone.
    compiled: false = eager.
    """
    import os

    import numpy as np
    import torch

    from phi_jax.bench.train_speed import BATCHES, WARMUP_STEPS, random_batches
    from phi_jax.parallel.processes import keep_freed_memory

    keep_freed_memory()  # as on our side
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as jax's default precision there; none on a CPU
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape, rules = case["model"], case["training"]
    model = phi_model(shape, attention, device)
    # Matrices and embeddings decay, biases and LayerNorm parameters do not: as in training/optimizer.py.
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": rules["weight_decay"]},
        {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0},
    ]
    betas = (rules["beta1"], rules["beta2"])
    optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=betas, eps=rules["epsilon"], fused=True)
    batch_size = rules["global_batch_size"]
    batches = [
        torch.from_numpy(b).long() for b in random_batches(batch_size, shape["max_seq_len"], shape["vocab_size"])
    ]

    def loss_of(tokens):
        with torch.autocast(device, torch.bfloat16, enabled=shape["compute_dtype"] == "bfloat16"):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    part_loss = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def step(i):
        losses = []
        for part in batches[i % BATCHES].to(device, non_blocking=True).chunk(rules["microbatches"]):
            loss = part_loss(part) / rules["microbatches"]
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), rules["clip_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum()

    ends, losses, previous = [], [], step(0)
    for i in range(1, WARMUP_STEPS + case["steps"] + 2):
        current = step(i)
        losses.append(float(previous))  # as on our side, read after the next step was dispatched
        ends.append(time.perf_counter())
        previous = current
    seconds = float(np.median(np.diff(ends)[WARMUP_STEPS:]))
    return {
        "tokens_per_second": batch_size * shape["max_seq_len"] / seconds,
        "step_seconds": seconds,
        "first_loss": losses[0],
        "parameters": sum(p.numel() for p in model.parameters()),
        "device_kind": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "attention": attention,
    }


def phi_model(shape, attention, device):
    """Fresh float32 PhiForCausalLM of a shape, in training mode.

    attention: of transformers. "sdpa" hands torch a causal mask, at least before torch 2.14, which keeps torch's flash
    kernels away; "sdpa without mask" takes the mask out and leaves the rest as it is.
    """
    import torch
    import transformers
    from transformers.models.phi import modeling_phi

    config = transformers.PhiConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_heads"],
        max_position_embeddings=shape["max_seq_len"],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": shape["rope_theta"],
            "partial_rotary_factor": shape["rotary_dim"] / shape["head_dim"],
        },
        attention_dropout=shape["attention_dropout"],
        resid_pdrop=shape["residual_dropout"],
        embd_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=1,
    )
    if attention == "sdpa without mask":
        modeling_phi.create_causal_mask = lambda *_, **__: None
        attention = "sdpa"
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    rotary = model.model.layers[0].self_attn.rotary_ndims
    assert rotary == shape["rotary_dim"], f"PhiForCausalLM rotates {rotary} dims instead of {shape['rotary_dim']}"
    return model.float().train()


def check_same(case, figures):
    """Both sides have the same parameters and start at the loss that fresh weights have.

    That loss is ln V + D sigma^2 / 2: the logits of a LayerNorm's output of unit variance under a head of standard
    deviation sigma are normal with variance D sigma^2, and the mean of their exponentials is half of it, in logs.
    """
    from phi_jax.errors import UserError

    model = case["model"]
    expected = math.log(model["vocab_size"]) + model["hidden_size"] * model["initializer_range"] ** 2 / 2
    found = {name: (side["parameters"], side["first_loss"]) for name, side in figures.items()}
    if len({side["parameters"] for side in figures.values()}) > 1 or any(
        abs(side["first_loss"] - expected) > LOSS_TOLERANCE for side in figures.values()
    ):
        raise UserError(
            f"(parameters, first loss) of {found}, where fresh weights have {expected:.3f}: the two do not compute the "
            "same thing, so no ratio"
        )


def measure(options):
    from compare import Side, compare

    from phi_jax.bench.train_speed import case_of
    from phi_jax.config import load

    # Both sides train with AdamW: torch has no Muon of ours to compare with.
    config = load(
        [
            "--config",
            options.config,
            "--config.training.optimizer=adamw",
            *(f"--config.{change}" for change in options.set),
        ]
    )
    case = {**case_of(config), "steps": options.steps}
    attentions = options.attention or ATTENTIONS
    tried = {name: Side("train_transformers:peer", {"case": case, "attention": name}) for name in attentions}
    # Short runs choose the peer's attention.
    speeds = {name: side.run()["tokens_per_second"] for name, side in tried.items()} if len(tried) > 1 else {}
    chosen = max(speeds, key=lambda name: speeds[name]) if speeds else attentions[0]
    sides = {"ours": Side("train_transformers:ours", {"case": case}), "peer": tried[chosen]}
    return {
        "case": case,
        "peer": f"transformers PhiForCausalLM, attention {chosen}, torch.compile, AdamW(fused=True)",
        "peer_attention_tried": speeds,
        **compare(sides, options.rounds, check=lambda figures: check_same(case, figures)),
    }


def add_arguments(add):
    add("--config", default="configs/nano.py", metavar="FILE.py[:ARG]", help="whose training is measured")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the config: training.microbatches=2")
    add("--steps", type=int, default=20, metavar="N", help="timed steps, after warm-up (default 20)")
    add("--attention", nargs="+", choices=ATTENTIONS, help="of the peer's, the fastest is taken (default: all)")


if __name__ == "__main__":
    from compare import main

    main(add_arguments, measure)
