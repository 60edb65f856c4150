"""Runs `phi-jax` and kills it with SIGKILL at a chosen moment: the N-th time an audit event names a matching path.

    python tests/killed_run.py EVENT REGEX N phi-jax-arguments...

EVENT "os.rename" is the moment a file has been written under its temporary name and is not in place yet.
"""

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


if __name__ == "__main__":  # a process that a stage starts imports this file too
    kill_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    from phi_jax.cli import main

    main(sys.argv[4:])
