"""Everything that a forked child gives up before it runs the program."""

import ctypes
import fcntl
import math
import os
import resource
import signal
from collections.abc import Sequence

from ..program import Limits
from . import landlock, libc, seccomp

_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}

OPEN_FILES = 64
_HIGH = OPEN_FILES // 2  # the fork server opens a handful of descriptors, all below this
UNCONFINED_FILE_BYTES = 16 << 20

# Besides Python's own folders: shared libraries that the standard library's modules load, and time zones.
_SYSTEM_PATHS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/zoneinfo", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip


class Confinement:
    """What is prepared once in the fork server; `enter` is then cheap in each child.

    readable: the folders that Python imports from. rules: the descriptor of Landlock's rules, to be kept until `enter`.
    """

    def __init__(self, limits: Limits, readable: Sequence[str], *, full: bool) -> None:
        self.full = full
        self.rules: list[int] = []
        self._limits = _resource_limits(limits, full=full)
        if full:
            # Inherited. Unconfined, the server needs root's rights to clear what a program left.
            _drop_capabilities()
            self.rules = [landlock.ruleset(landlock.abi(), [*readable, *_SYSTEM_PATHS])]
            self._filter = seccomp.Filter(os.uname().machine)

    def enter(self, parent: int, rules: int) -> None:
        """Confines this process for good. Raises OSError when a protection cannot be had.

        parent: the fork server's process id; with its death this process dies. rules: where `self.rules` now stands.
        """
        if not self.full:
            _drop_capabilities()
        if libc.LINUX:
            # After the capabilities: the kernel clears the death signal when credentials change.
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        for kind, value in self._limits:
            try:
                resource.setrlimit(kind, (value, value))
            except (ValueError, OSError):
                # macOS refuses some (RLIMIT_AS below the current size); there the wall clock bounds the program.
                if libc.LINUX:
                    raise
        if self.full:
            landlock.restrict(rules)
            os.close(rules)
            self._filter.install()


def _resource_limits(limits: Limits, *, full: bool) -> list[tuple[int, int]]:
    """(resource, soft and hard limit) of a child.

    Raises OSError where this process may not have that much: a program would fail here that passes elsewhere.
    """
    wanted = {
        "RLIMIT_CORE": 0,
        # Soft and hard at once: SIGKILL comes without the SIGXCPU that a program can ignore.
        # Behind the server's own clock, which is exact (server.py), on Linux; elsewhere the only one.
        "RLIMIT_CPU": max(1, math.ceil(limits.cpu_seconds)) * (2 if libc.LINUX else 1) + libc.LINUX,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_FSIZE": 0 if full else UNCONFINED_FILE_BYTES,
        "RLIMIT_NPROC": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_AS": limits.memory_bytes,
    }
    for name, value in wanted.items():
        most = resource.getrlimit(getattr(resource, name))[1]
        if most != resource.RLIM_INFINITY and most < value:
            raise OSError(f"the hard limit {name} is {most} here, and a program may need {value}")
    return [(getattr(resource, name), value) for name, value in wanted.items()]


# capset's header (version, this process) and no capability of any kind.
_NOBODYS = ((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())


def _drop_capabilities() -> None:
    """root without capabilities: file permissions, limits and other users' processes hold for it too."""
    number = _CAPSET.get(os.uname().machine)
    if libc.LINUX and number is not None:
        libc.syscall(number, *map(ctypes.addressof, _NOBODYS))


def keep_descriptors(kept: Sequence[int]) -> None:
    """Moves `kept` to the numbers 3, 4, 5, ... and closes every other one of this process but 0, 1 and 2."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in kept]
    for target, fd in enumerate(high, 3):
        os.dup2(fd, target, inheritable=False)
    os.closerange(3 + len(kept), 2 * OPEN_FILES)
