"""Everything that a forked child gives up before it runs the program."""

import contextlib
import ctypes
import fcntl
import math
import os
import platform
import resource
import signal
from collections.abc import Sequence

from . import landlock, libc, seccomp
from .program import MIB, Limits

_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}

OPEN_FILES = 64
UNCONFINED_FILE_BYTES = 16 * MIB

# Besides Python's own folders: shared libraries that the standard library's modules load, and time zones.
_SYSTEM_PATHS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/zoneinfo", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip


class Confinement:
    """What is prepared once in the fork server; `enter` is then cheap in each child.

    readable: the folders that Python imports from.
    """

    def __init__(self, limits: Limits, readable: Sequence[str], *, full: bool) -> None:
        self.limits = limits
        self.full = full
        self._rules = -1
        self._filter: seccomp.Filter | None = None
        if full:
            self._rules = landlock.ruleset(landlock.abi(), [*readable, *_SYSTEM_PATHS])
            self._filter = seccomp.Filter(platform.machine())

    def enter(self, parent: int) -> None:
        """Confines this process for good. Raises OSError when a protection cannot be had.

        parent: the fork server's process id; with its death this process dies.
        """
        _drop_capabilities()
        if libc.LINUX:
            # After the capabilities: the kernel clears the death signal when credentials change.
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        self._limit()
        if self._filter is not None:
            landlock.restrict(self._rules)
            os.close(self._rules)
            self._filter.install()

    @property
    def kept(self) -> list[int]:
        """The descriptors that must survive until `enter`."""
        return [self._rules] if self.full else []

    def moved(self, rules: int) -> None:
        """Tells under which number `kept` now stands."""
        self._rules = rules

    def _limit(self) -> None:
        seconds = max(1, math.ceil(self.limits.cpu_seconds))
        _set_limit(resource.RLIMIT_CORE, 0)
        # Soft and hard at once: SIGKILL comes without the SIGXCPU that a program can ignore.
        _set_limit(resource.RLIMIT_CPU, seconds)
        _set_limit(resource.RLIMIT_NOFILE, OPEN_FILES)
        _set_limit(resource.RLIMIT_FSIZE, 0 if self.full else UNCONFINED_FILE_BYTES)
        _set_limit(resource.RLIMIT_NPROC, 0)
        _set_limit(resource.RLIMIT_MEMLOCK, 0)
        _set_limit(resource.RLIMIT_AS, self.limits.memory_bytes)


def _set_limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    # macOS refuses some of them (RLIMIT_AS below the current size); there the wall clock bounds the program.
    with contextlib.suppress(ValueError, OSError) if not libc.LINUX else contextlib.nullcontext():
        resource.setrlimit(kind, (value, value))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_capabilities() -> None:
    """root without capabilities: file permissions, limits and other users' processes hold for it too."""
    number = _CAPSET.get(platform.machine())
    if not libc.LINUX or number is None:
        return
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    libc.syscall(number, ctypes.addressof(header), ctypes.addressof(nothing))


def keep_descriptors(kept: Sequence[int]) -> None:
    """Moves `kept` to the numbers 0, 1, 2, ... and closes every other descriptor of this process."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 128) for fd in kept]
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=False)
    # The fork server opens a handful of descriptors, all far below this.
    os.closerange(len(kept), 256)
