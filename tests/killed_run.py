"""Runs `phi-jax` and kills it with SIGKILL at a chosen moment: the N-th time an audit event names a matching path.

    python tests/killed_run.py EVENT REGEX N phi-jax-arguments...
    python tests/killed_run.py MOMENTS phi-jax-arguments...

EVENT "os.rename" is the moment a file has been written under its temporary name and is not in place yet. MOMENTS is a
JSON list of [EVENT, REGEX, N]: one run after the other, each a child of this process, which has imported what they
need. "ended CODE" on standard error says how each ended, -9 where it was killed.
"""

import json
import os
import re
import signal
import sys

seen = 0


def kill_at(event_name, pattern, count):
    def hook(event, arguments):
        global seen
        if event != event_name:
            return
        path = os.fspath(arguments[1] if event == "os.rename" else arguments[0])
        if isinstance(path, str) and re.search(pattern, path):
            seen += 1
            if seen == count:
                os.write(2, f"killed at {event} {path}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def one_after_the_other(moments, arguments):
    import jax  # noqa: F401 - a third of most runs' time
    import orbax.checkpoint  # noqa: F401

    from phi_jax import graph, pipeline  # noqa: F401
    from phi_jax.cli import main

    for moment in moments:
        child = os.fork()
        if child == 0:
            kill_at(*moment)
            main(arguments)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(2, f"ended {code}\n".encode())


if __name__ == "__main__":  # a process that a stage starts imports this file too
    if sys.argv[1].startswith("["):
        one_after_the_other(json.loads(sys.argv[1]), sys.argv[2:])
    else:
        kill_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        from phi_jax.cli import main

        main(sys.argv[4:])
