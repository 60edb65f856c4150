"""Runs `phi-jax` commands one after the other, each in a child of this process, which has imported what most need.

Reads JSON, a line each: {"arguments", "cwd", "env", "stdout", "stderr"}, the last two paths; answers with exit codes.
"""

import json
import os
import sys


def run(arguments, cwd, env, stdout, stderr):
    from phi_jax.cli import main

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "coverage" in sys.modules:  # acceptance/test_mutation_check.py asks which test this child is of
        sys.modules["coverage"].Coverage.current().switch_context(env["PYTEST_CURRENT_TEST"])
    for number, path in enumerate((os.devnull, stdout, stderr)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.exit(main(arguments))


if __name__ == "__main__":  # a process that a stage starts imports this file too
    import jax  # noqa: F401 - a third of most commands' time
    import orbax.checkpoint  # noqa: F401

    from phi_jax import pipeline  # noqa: F401
    from phi_jax.training import loop  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"{code}\n".encode())
