"""The parts of a device check, in order of value, and the process that one of them runs in.

    python parts.py NAME ANSWER.json CONTEXT

A part is a generator: it yields its figures so far, all of them, as often as it has more. Each time they are written
to ANSWER.json, so that a part that is stopped, runs out of memory or aborts leaves what it found.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from case import Skipped, device

from phi_jax.errors import UserError
from phi_jax.parallel import processes
from phi_jax.sandbox.kernel import libc


@dataclasses.dataclass(frozen=True)
class Part:
    """function: "module:name", called with the context and `arguments`. needs: modules without which it is skipped.

    alone: one process, on the first host, does it, and jax sees no accelerator there.
    """

    function: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    alone: bool = False
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


_WITH_TORCH = ("torch", "transformers")
PARTS = {
    "correctness": Part("correctness:correctness"),
    "step": Part("speed:step"),
    "torch": Part("speed:beside_torch", needs=_WITH_TORCH, alone=True, environment={"JAX_PLATFORMS": "cpu"}),
    "small_step": Part("speed:step", {"config": "phi_1_small"}),
    **{
        f"remat_rows.{remat}.{rows}": Part("speed:remat_rows", {"remat": remat, "rows": rows})
        for remat in ("none", "dots", "full")
        for rows in (4, 8, 16)
    },
    "matmul": Part("speed:ceilings"),
    **{f"sampler.{slots}": Part("speed:sampler", {"slots": slots}) for slots in (1, 32, 256)},
    # Else jax takes the memory that torch needs.
    "export": Part(
        "correctness:export", needs=(*_WITH_TORCH, "safetensors", "tokenizers", "etils"),
        environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    ),
}  # fmt: skip


def main() -> None:
    """One part. Its exit code is 0 for every result that it could write itself."""
    libc.prctl(libc.PR_SET_PDEATHSIG, 9)  # no part outlives the check that watches it
    name, answer, context = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    part, found = PARTS[name], {"result": "unfinished", "figures": {}}

    def write(**more: Any) -> None:
        found.update(more)
        replace(answer, json.dumps(found))

    try:
        for module in part.needs:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                raise Skipped(f"no {module}") from None
        if not part.alone:
            if context["distributed"]:
                processes.connect("env")
            write(device=device())
            if found["device"]["platform"] == "cpu" and context["shapes"] != "tiny":
                raise UserError("the devices here are CPUs; add --shapes tiny for a rehearsal")
        module, _, function = part.function.partition(":")
        for figures in getattr(importlib.import_module(module), function)(context, **part.arguments):
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
