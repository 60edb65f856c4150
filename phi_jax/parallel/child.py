"""A function called in a fresh interpreter, which answers by a file: alone with its environment, its devices and its
crashes.

A program that calls `run_child` and this file's own main are the two ends.
"""

import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run_child(
    function: str,
    arguments: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    interpreter: str = sys.executable,
    timeout: float | None = None,
) -> Any:
    """What `function`, "module:name", returns for the keywords `arguments`, both as JSON has them.

    environment: of the child; the folder of phi_jax is added to its PYTHONPATH. interpreter: of an environment that
    need not have phi_jax, where the module does without. timeout: seconds, after which the child is killed. Raises
    UserError: the one that the function raised, the last line that a child wrote which fails, aborts or is killed, or
    that it was stopped.
    """
    from phi_jax.errors import UserError  # here: the other end runs where phi_jax may be missing

    paths = [str(Path(__file__).resolve().parents[2]), environment.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch, "answer")
        # -P: the modules beside this file are called as the standard library's.
        try:
            done = subprocess.run(
                [interpreter, "-P", __file__, function, str(answer)], input=json.dumps(arguments), text=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="replace", timeout=timeout,
                env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(f"{function}: stopped after {timeout:g} s") from None
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no word"]
            raise UserError(f"{function}: {said[-1].strip()} (exit code {done.returncode}; below 0: the signal)")
        found = json.loads(answer.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return found["answer"]


def main() -> None:
    """`python child.py FUNCTION ANSWER`, with the arguments on standard input."""
    try:
        found = {"answer": pkgutil.resolve_name(sys.argv[1])(**json.load(sys.stdin))}
    except Exception as error:
        if type(error).__name__ != "UserError":
            raise
        found = {"error": str(error)}
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
