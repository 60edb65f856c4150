"""Ours beside a peer's, in turns: one child process at a time, so that neither takes cores or memory from the other."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from phi_jax.bench.case import Case
from phi_jax.bench.child import run_child
from phi_jax.errors import UserError

OURS, PEER = "phi_jax.bench.measure", "phi_jax.bench.peer_transformers"
LOSS_TOLERANCE = 0.1  # nats, of a first loss
DISTURBED = 0.05  # share of the CPU time that goes elsewhere


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """First one short run of the peer for each attention it has; the fastest goes on. Then `rounds` times both.

    Returns what `summary` does, and "peer_attention_tried". Raises UserError where torch or transformers is missing,
    the device is no CPU or GPU, or the two do not compute the same thing.
    """
    from phi_jax.bench.peer_transformers import attentions

    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"bench train --peer transformers needs {name}: pip install 'phi-jax[peers]'")
    platform = _run(OURS, dataclasses.replace(case, steps=1))["figures"]["platform"]
    if platform not in ("cpu", "gpu"):
        raise UserError(
            f"bench train --peer transformers: the peer runs on a CPU or an NVIDIA GPU, not on a {platform}"
        )
    device = "cuda" if platform == "gpu" else "cpu"
    tried, attention = _fastest_attention(case, attentions(device), device)
    done = [one_round(case, attention, device) for _ in range(rounds)]
    return {**summary(case, done), "peer_attention_tried": tried}


def one_round(case: Case, attention: str, device: str) -> dict[str, Any]:
    """{"ours", "peer"}: results of both, one after the other."""
    return {"ours": _run(OURS, case), "peer": _run(PEER, case, attention=attention, device=device)}


def summary(case: Case, done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"surroundings", "case", "peer", "peer_attention", "checks", "ratio", "rounds"} of rounds that were taken.

    ratio: see `ratio_of`. rounds: the figures of both sides; the peer's MFU is ours scaled by that round's ratio,
    since both compute the same FLOPs.
    Raises UserError where the two do not compute the same thing.
    """
    pairs = []
    for pair in done:
        ours, peer = pair["ours"]["figures"], pair["peer"]["figures"]
        checks = _check_same(case, ours, peer)
        ratio = ours["tokens_per_second"] / peer["tokens_per_second"]
        mfus = {name: ours[name] and ours[name] / ratio for name in ("mfu_full_attention", "mfu_causal_attention")}
        pairs.append({"ours": ours, "peer": {**peer, **mfus}})
    return {
        "surroundings": done[0]["ours"]["surroundings"],
        "case": done[0]["ours"]["case"],
        "peer": "transformers PhiForCausalLM, torch.compile, AdamW(fused=True)",
        "peer_attention": pairs[0]["peer"]["attention"],
        "checks": checks,
        "ratio": ratio_of(pairs),
        "rounds": pairs,
    }


def ratio_of(pairs: Sequence[dict[str, dict[str, Any]]], speed: str = "tokens_per_second") -> dict[str, Any]:
    """Of rounds {"ours", "peer"}: ours / peer's `speed` in each, their median, the lowest and the highest.

    "undisturbed": those of the rounds in which other processes and the machine's host took less than DISTURBED of the
    CPU time on either side. On a CPU no other ratio means much.
    """
    ratios = [pair["ours"][speed] / pair["peer"][speed] for pair in pairs]
    return {
        "median": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "rounds": ratios,
        "undisturbed": [
            ratio for ratio, pair in zip(ratios, pairs, strict=True) if not any(map(_is_disturbed, pair.values()))
        ],
    }


def _is_disturbed(figures: dict[str, Any]) -> bool:
    return any((figures.get(name) or 0.0) >= DISTURBED for name in ("cpu_stolen_share", "cpu_others_share"))


def _run(module: str, case: Case, **keywords: Any) -> dict[str, Any]:
    result = run_child(module, case, **keywords)
    speed = result["figures"]["tokens_per_second"]
    print(f"{module} {keywords.get('attention', '')}: {speed:.0f} tokens/s", file=sys.stderr, flush=True)
    return result


def _fastest_attention(case: Case, names: list[str], device: str) -> tuple[dict[str, float | str], str]:
    """({attention: tokens a second, or why it did not run}, the fastest) in short runs of the peer.

    At the 90th percentile, so that a busy moment of the machine does not decide.
    """
    short = dataclasses.replace(case, steps=max(case.steps // 2, 1))
    tried: dict[str, float | str] = {}
    for name in names:
        try:
            tried[name] = _run(PEER, short, attention=name, device=device)["figures"]["tokens_per_second_p90"]
        except UserError as error:
            tried[name] = str(error)
    speeds = {name: speed for name, speed in tried.items() if isinstance(speed, float)}
    if not speeds:
        raise UserError(f"bench train --peer transformers {case.name}: the peer did not run; {tried[names[0]]}")
    return tried, max(speeds, key=lambda name: speeds[name])


def _check_same(case: Case, ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    """Both have the same parameters, and start at the loss that fresh weights have.

    That loss is ln V + D sigma^2 / 2: the logits of a LayerNorm's output of unit variance under a head of standard
    deviation sigma are normal with variance D sigma^2, and the mean of their exponentials is half of it, in logs.
    """
    width, sigma = case.model["hidden_size"], case.model.get("initializer_range", 0.02)
    expected = math.log(case.model["vocab_size"]) + width * sigma**2 / 2
    for name, figures in (("ours", ours), ("the peer's", peer)):
        if abs(figures["first_loss"] - expected) > LOSS_TOLERANCE:
            raise UserError(
                f"bench train --peer transformers {case.name}: {name} first loss is {figures['first_loss']:.3f}, fresh "
                f"weights have {expected:.3f}; the two do not compute the same thing, so no ratio"
            )
    if ours["parameters"] != peer["parameters"]:
        raise UserError(
            f"bench train --peer transformers {case.name}: {ours['parameters']} parameters against the peer's "
            f"{peer['parameters']}; the two do not compute the same thing, so no ratio"
        )
    return {"parameters": ours["parameters"], "first_loss_expected": expected, "first_loss_tolerance": LOSS_TOLERANCE}
