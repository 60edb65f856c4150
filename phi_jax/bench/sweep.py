"""A fixed short list of ways to compute the step on a GPU, each in a child process; best first."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phi_jax.bench.case import Case
from phi_jax.bench.child import run_child
from phi_jax.errors import UserError

TIMEOUT = 300.0  # seconds for one candidate, its compile included


class Choice(NamedTuple):
    """One candidate: how the blocks are computed, and XLA's flags."""

    attention: str
    remat: str
    unroll: int
    microbatch: int
    flags: str = ""  # added to XLA_FLAGS


# Flags that NVIDIA's JAX-Toolbox (docs/GPU_performance.md) and MaxText's GPU recipes name and that can matter on one
# GPU. An XLA that does not know one aborts, and the row says so.
FLAG_SETS = (
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "--xla_gpu_enable_triton_gemm=false",
    "--xla_gpu_enable_command_buffer=",
    "--xla_disable_hlo_passes=rematerialization",
    "--xla_gpu_enable_while_loop_double_buffering=true",
    "--xla_gpu_cudnn_gemm_fusion_level=2",
    "--xla_gpu_exhaustive_tiling_search=true",
)


def choices(case: Case) -> list[Choice]:
    """Kernel x remat x unroll x microbatch around the case's own microbatch: what can win, not the whole product.

    Recomputing pays only where it makes room for larger microbatches, so those two go together.
    """
    b, layers = case.microbatch, case.model["num_layers"]
    return [
        Choice("cudnn", "none", 1, b),
        Choice("cudnn", "none", layers, b),
        Choice("cudnn", "none", 1, 2 * b),
        Choice("cudnn", "none", layers, 2 * b),
        Choice("cudnn", "dots", 1, 2 * b),
        Choice("cudnn", "full", 1, 4 * b),
        Choice("xla", "none", 1, b),
        Choice("xla", "full", 1, 2 * b),
    ]


def sweep(case: Case, out: Path | None) -> list[dict[str, Any]]:
    """Rows of all `choices`, then of the fastest with each of FLAG_SETS; best first, as a table and in `out`.

    A row is {"choice", "figures"}, or {"choice", "error"} for what did not compile, fit, finish or run. Rows are also
    appended to `out` (JSON lines) as they come, so that an interrupted sweep leaves what it has.
    """
    rows = measure_all(case, choices(case), out)
    best = _best_first(rows)[0]
    if "figures" in best:
        fastest = Choice(**best["choice"])
        rows += measure_all(case, [fastest._replace(flags=flags) for flags in FLAG_SETS], out)
    rows = _best_first(rows)
    if out is not None:
        out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def measure_all(case: Case, candidates: Sequence[Choice], out: Path | None = None) -> list[dict[str, Any]]:
    """One row for each candidate, in order; see `sweep`."""
    rows = []
    for number, choice in enumerate(candidates, 1):
        print(f"{number}/{len(candidates)} {' '.join(map(str, choice))}", file=sys.stderr, flush=True)
        row: dict[str, Any] = {"choice": choice._asdict()}
        try:
            result = run_child(
                "phi_jax.bench.measure", _with(case, choice), timeout=TIMEOUT,
                environment={"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {choice.flags}".strip()},
            )  # fmt: skip
            row |= result
        except UserError as error:
            row["error"] = str(error)
        rows.append(row)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return rows


def table(rows: Iterable[dict[str, Any]]) -> str:
    """One line a row: tokens/s, MFU with full attention, peak GiB, compile seconds and the choice, or its error."""
    lines = [f"{'tokens/s':>9} {'MFU':>6} {'GiB':>6} {'compile':>8}  attention remat unroll microbatch flags"]
    for row in rows:
        choice = " ".join(str(value) for value in row["choice"].values())
        if "error" in row:
            lines.append(f"{'-':>9} {'-':>6} {'-':>6} {'-':>8}  {choice}: {row['error']}")
            continue
        f = row["figures"]
        mfu = "-" if f["mfu_full_attention"] is None else f"{f['mfu_full_attention']:.1%}"
        memory = f["peak_memory_bytes"] / 2**30
        lines.append(f"{f['tokens_per_second']:>9.0f} {mfu:>6} {memory:>6.1f} {f['compile_seconds']:>7.0f}s  {choice}")
    return "\n".join(lines)


def _with(case: Case, choice: Choice) -> Case:
    model = {**case.model, "attention": choice.attention, "remat": choice.remat, "scan_unroll": choice.unroll}
    return dataclasses.replace(case, model=model, microbatch=choice.microbatch)


def _best_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -row["figures"]["tokens_per_second"] if "figures" in row else 0.0)
