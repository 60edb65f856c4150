"""A parent for each process of a run of several: it says in a line how a child ended that could not say so itself.

When process 0 dies, jax aborts the others from C++ at once, and the out-of-memory killer leaves no word either.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from phi_jax.errors import EXIT_PEER_LOST, EXIT_PREEMPTED
from phi_jax.progress import say

_CHILD = "PHI_JAX_SUPERVISED"


def is_child() -> bool:
    """True in the process that does the work."""
    return os.environ.get(_CHILD) == str(os.getppid())


def supervise(arguments: Sequence[str]) -> int:
    """Runs `phi-jax ARGUMENTS` as a child, hands signals on to it, and returns the exit code to end with."""
    child = subprocess.Popen(
        [sys.executable, "-m", "phi_jax.cli", *arguments], env={**os.environ, _CHILD: str(os.getpid())}
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: child.send_signal(received))
    code = child.wait()
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    if -code == signal.SIGABRT:
        say("phi-jax: this process was aborted by jax: process 0, which keeps the run together, is gone, unless the "
            "lines above name another cause; run the same command again to go on")  # fmt: skip
        return EXIT_PEER_LOST
    if -code == signal.SIGTERM:
        say("phi-jax: asked to stop before training began; run the same command again to go on")
        return EXIT_PREEMPTED
    hint = " (the machine may have run out of memory)" if -code == signal.SIGKILL else ""
    say(f"phi-jax: this process was ended by {name}{hint}; run the same command again to go on")
    return 128 - code


def die_with_parent() -> None:
    """The child must not outlive a parent that was killed: it would hold the devices."""
    from phi_jax.sandbox.kernel import libc

    if libc.LINUX:
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
