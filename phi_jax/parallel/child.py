"""A function called in a fresh interpreter, which answers by a file: alone with its environment, its devices and its
crashes.

A program that calls `run_child` and this file's own main are the two ends.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def run_child(
    function: str,
    arguments: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    interpreter: str = sys.executable,
    say: Callable[[str], None] | None = None,
) -> Any:
    """What `function`, "module:name", returns for the keywords `arguments`, both as JSON has them.

    environment: of the child, instead of ours; the folder of phi_jax is added to its PYTHONPATH. interpreter: of an
    environment that need not have phi_jax, where the module does without. say: called with each line that the child
    prints. Raises UserError: the one that the function raised, or the last line that a child wrote which fails,
    aborts or is killed.
    """
    from phi_jax.errors import UserError  # here: the other end runs where phi_jax may be missing

    environment = dict(os.environ if environment is None else environment)
    paths = [str(Path(__file__).resolve().parents[2]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch, "errors"), "w+", errors="replace") as errors:
        request, answer = Path(scratch, "request"), Path(scratch, "answer")
        request.write_text(json.dumps(arguments))
        # -P: the modules beside this file are called as the standard library's.
        command = [interpreter, "-P", __file__, function, str(request), str(answer)]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
            errors="replace",
        ) as child:  # fmt: skip
            try:
                for line in child.stdout or ():
                    if say is not None:
                        say(line.rstrip())
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            errors.seek(0)
            said = [line.strip() for line in errors if line.strip()] or ["no word"]
            how = f"exit code {child.returncode}" if child.returncode > 0 else f"killed by signal {-child.returncode}"
            raise UserError(f"{function}: {said[-1]} ({how})")
        found = json.loads(answer.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return found["answer"]


def main() -> None:
    """`python child.py FUNCTION REQUEST ANSWER`."""
    module, _, name = sys.argv[1].partition(":")
    arguments = json.loads(Path(sys.argv[2]).read_text())
    try:
        found = {"answer": getattr(importlib.import_module(module), name)(**arguments)}
    except Exception as error:
        if type(error).__name__ != "UserError":
            raise
        found = {"error": str(error)}
    Path(sys.argv[3]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
