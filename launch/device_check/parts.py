"""The parts of a device check, in order of value, and the process that one of them runs in.

    python parts.py NAME ANSWER.json CONTEXT

A part is a generator: it yields its figures so far, all of them, as often as it has more. Each time they are written
to ANSWER.json, so that a part that is stopped, runs out of memory or aborts leaves what it found.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from case import Skipped, device

from phi_jax.errors import UserError
from phi_jax.parallel import processes
from phi_jax.sandbox.kernel import libc

# Name -> ("module:function", its arguments beside the context).
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "correctness": ("correctness:correctness", {}),
    "step": ("speed:step", {"config": "phi_1"}),
    "torch": ("beside:speed", {}),
    "small_step": ("speed:step", {"config": "phi_1_small"}),
    **{
        f"remat_rows.{remat}.{rows}": ("speed:remat_rows", {"remat": remat, "rows": rows})
        for remat in ("none", "dots", "full")
        for rows in (4, 8, 16)
    },
    "matmul": ("speed:ceilings", {}),
    **{f"sampler.{slots}": ("speed:sampler", {"slots": slots}) for slots in (1, 32, 256)},
    "export": ("beside:export", {}),
}
# Of torch: one process, on the first host, does them, and jax there leaves the accelerator to torch.
ALONE = ("torch", "export")


def main() -> None:
    """One part. Its exit code is 0 for every result that it could write itself."""
    name, answer, context = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)  # no part outlives the check that watches it
    if os.getppid() != context["check"]:
        return
    function, arguments = PARTS[name]
    found: dict[str, Any] = {"result": "unfinished", "figures": {}}

    def write(**more: Any) -> None:
        found.update(more)
        replace(answer, json.dumps(found))

    try:
        if name not in ALONE:
            if context["distributed"]:
                processes.connect("env")
            write(device=device())
            if found["device"]["platform"] == "cpu" and context["shapes"] != "tiny":
                raise UserError("the devices here are CPUs; add --shapes tiny for a rehearsal")
        module, _, name = function.partition(":")
        for figures in getattr(importlib.import_module(module), name)(context, **arguments):
            write(figures=figures)
        write(result="done")
    except Skipped as error:
        write(result=f"skipped: {error}")
    except Exception as error:
        traceback.print_exc()
        lines = str(error).splitlines() or [""]
        write(result=f"failed: {lines[0] if isinstance(error, UserError) else f'{type(error).__name__}: {lines[0]}'}")
        sys.stderr.flush()
        os._exit(0)  # jax's shutdown would wait for processes that still compute


def replace(path: Path, text: str) -> None:
    """Writes a whole file at once."""
    scratch = path.with_name(f"{path.name}.tmp")
    scratch.write_text(text)
    os.replace(scratch, path)


if __name__ == "__main__":
    main()
