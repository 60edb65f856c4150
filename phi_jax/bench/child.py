"""A measurement in a process of its own: alone with the device, and a crash there is a line here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from phi_jax.bench.case import Case
from phi_jax.errors import UserError


def run_child(
    module: str,
    case: Any,
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
    **keywords: Any,
) -> dict[str, Any]:
    """What the function that `module` serves returns for (case, **keywords), called in a new process.

    module: e.g. "phi_jax.bench.measure". environment: variables that are set on top of ours. timeout: seconds.
    Raises UserError with the last line that the process wrote, where it fails, aborts or takes longer.
    """
    with tempfile.TemporaryDirectory() as directory:
        request, answer = Path(directory, "request.json"), Path(directory, "answer.json")
        request.write_text(json.dumps({"case": vars(case), **keywords}))
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, str(request), str(answer)],
                env={**os.environ, **(environment or {})}, capture_output=True, text=True, errors="replace",
                timeout=timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(f"{module} {case.name}: took longer than {timeout:.0f} s") from None
        if done.returncode:
            raise UserError(f"{module} {case.name}: {_reason(done)}")
        return json.loads(answer.read_text())


def serve(function: Callable[..., dict[str, Any]], kind: type[Any] = Case) -> None:
    """The other end of `run_child`: the body of `python -m MODULE REQUEST ANSWER`. kind: of the case."""
    request = json.loads(Path(sys.argv[1]).read_text())
    case = kind(**request.pop("case"))
    try:
        result = function(case, **request)
    except UserError as error:
        sys.exit(str(error))
    Path(sys.argv[2]).write_text(json.dumps(result))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    how = f"exit code {done.returncode}" if done.returncode > 0 else f"killed by signal {-done.returncode}"
    # XLA names the flag that it does not know in a line of its own, above a stack trace.
    said = next((line for line in lines if "Unknown flag" in line), lines[-1] if lines else "no word")
    return f"{said} ({how})"
