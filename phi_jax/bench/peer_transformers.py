"""The peer: transformers' PhiForCausalLM on torch, compiled, trained on the same batches at the same precision."""

from __future__ import annotations

import importlib.util
import resource
import time
from typing import Any

from phi_jax.bench.case import BATCHES, OPTIMIZER, Case, random_batches
from phi_jax.bench.child import serve
from phi_jax.bench.surroundings import surroundings, usable_cores
from phi_jax.bench.timing import rates, time_steps
from phi_jax.errors import UserError
from phi_jax.parallel.processes import keep_freed_memory

LEARNING_RATE = 1e-5  # constant: a schedule would only cost the peer time


def attentions(device: str) -> list[str]:
    """The peer's attention implementations that are worth trying on a device ("cuda" or "cpu").

    "sdpa" is transformers' own use of it. It hands torch a causal mask, at least before torch 2.14, which keeps torch's
    flash kernels away; "sdpa without mask" takes the mask out and leaves the rest as it is.
    """
    if device == "cpu":
        return ["sdpa", "sdpa without mask", "eager"]
    flash = ["flash_attention_2"] if importlib.util.find_spec("flash_attn") else []
    return ["sdpa", "sdpa without mask", *flash]


def measure(case: Case, *, attention: str, device: str) -> dict[str, Any]:
    """{"surroundings", "case", "figures"} of the peer, in this process; figures as in bench.measure, without MFU.

    torch.compile on model and loss (full logits), bfloat16 autocast over float32 weights or plain float32, AdamW
    (fused) on the same split of decayed parameters, clipping. It never recomputes activations: `remat` is ours alone.
    compile_seconds is what the first step took longer than the median one. Raises UserError for a shape that
    PhiForCausalLM does not have or that does not fit.
    """
    keep_freed_memory()  # as on our side
    import torch

    torch.set_num_threads(usable_cores())
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as jax's default precision there; none on a CPU
    torch.manual_seed(0)
    try:
        figures = _figures(case, attention, device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"bench train --peer transformers {case.name}: the peer is out of memory with --microbatch "
            f"{case.microbatch}; take a smaller one"
        ) from None
    return {"surroundings": surroundings(), "case": vars(case), "figures": figures}


def _figures(case: Case, attention: str, device: str) -> dict[str, Any]:
    import torch

    model = phi_model(case.name, case.model, attention, device)
    optimizer = torch.optim.AdamW(
        _decay_groups(model), lr=LEARNING_RATE, betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["epsilon"], fused=True,
    )  # fmt: skip
    batches = [torch.from_numpy(tokens).long() for tokens in random_batches(case)]
    if device == "cuda":
        batches = [tokens.pin_memory() for tokens in batches]
    low_precision = case.model["compute_dtype"] == "bfloat16"

    def loss_of(tokens_BxT1: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=low_precision):
            logits = model(input_ids=tokens_BxT1[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens_BxT1[:, 1:].flatten())

    compiled_loss = torch.compile(loss_of, dynamic=False)

    def dispatch(i: int) -> Any:
        tokens_BxT1 = batches[i % BATCHES].to(device, non_blocking=True)
        losses = []
        for part in tokens_BxT1.split(case.microbatch):
            loss = compiled_loss(part) / case.microbatches
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return _Loss(torch.stack(losses).sum())

    start = time.perf_counter()
    first_loss = dispatch(0).read()
    first_step = time.perf_counter() - start
    times = {**time_steps(dispatch, _Loss.read, case.steps), "first_loss": first_loss}
    on_gpu = device == "cuda"
    return {
        "device_kind": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "attention": attention,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_per_step": case.tokens_per_step,
        **rates(times, case.tokens_per_step),
        **times,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_memory_source": "torch.cuda.max_memory_allocated()" if on_gpu else "the whole process (ru_maxrss)",
        "compile_seconds": first_step - times["step_seconds"],
    }  # fmt: skip


class _Loss:
    """A loss on its way to the host: waits for its own step, not for the one that was dispatched after it."""

    def __init__(self, loss: Any) -> None:
        import torch

        self._event = torch.cuda.Event() if loss.is_cuda else None
        self._value = loss.to("cpu", non_blocking=True)
        if self._event is not None:
            self._event.record()

    def read(self) -> float:
        if self._event is not None:
            self._event.synchronize()
        return float(self._value)


def phi_model(name: str, shape: dict[str, Any], attention: str, device: str) -> Any:
    """Fresh float32 PhiForCausalLM of a shape, in training mode. Raises UserError for one that it does not have."""
    import torch
    import transformers
    from transformers.models.phi import modeling_phi

    if shape["num_heads"] * shape["head_dim"] != shape["hidden_size"]:
        raise UserError(f"bench --peer transformers {name}: PhiForCausalLM needs heads x head_dim = hidden_size")
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
            "rope_theta": shape.get("rope_theta", 10000.0),
            "partial_rotary_factor": shape["rotary_dim"] / shape["head_dim"],
        },
        attention_dropout=shape.get("attention_dropout", 0.0),
        resid_pdrop=shape.get("residual_dropout", 0.0),
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
    model = model.float().train()
    rotary = model.model.layers[0].self_attn.rotary_ndims
    if rotary != shape["rotary_dim"]:
        raise RuntimeError(f"PhiForCausalLM rotates {rotary} dims instead of {shape['rotary_dim']}")
    return model


def _decay_groups(model: Any) -> list[dict[str, Any]]:
    """Matrices and embeddings decay, biases and LayerNorm parameters do not: as in training/optimizer.py."""
    decayed = [p for p in model.parameters() if p.dim() == 2]
    other = [p for p in model.parameters() if p.dim() != 2]
    return [{"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": other, "weight_decay": 0.0}]


if __name__ == "__main__":
    serve(measure)
