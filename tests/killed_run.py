"""Runs `phi-jax` and kills it with SIGKILL at a chosen moment: the N-th time an audit event names a matching path.

    python tests/killed_run.py EVENT REGEX N phi-jax-arguments...

EVENT "os.rename" is the moment a file has been written under its temporary name and is not in place yet.
"""

import os
import re
import signal
import sys

event_name, pattern, count = sys.argv[1], re.compile(sys.argv[2]), int(sys.argv[3])
seen = 0


def hook(event, arguments):
    global seen
    if event != event_name:
        return
    path = os.fspath(arguments[1] if event == "os.rename" else arguments[0])
    if isinstance(path, str) and pattern.search(path):
        seen += 1
        if seen == count:
            os.write(2, f"killed at {event} {path}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(hook)

from phi_jax.cli import main  # noqa: E402

main(sys.argv[4:])
