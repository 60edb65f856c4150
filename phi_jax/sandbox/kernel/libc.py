"""The C library's `syscall` and `prctl`, for what Python does not offer."""

import ctypes
import errno
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38

LINUX = sys.platform == "linux"

_libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int) -> int:
    """The system call's result, with at most six arguments. Raises OSError; ENOSYS where this is not Linux."""
    return _checked("syscall", number, *arguments, 0, 0, 0, 0, 0, 0)  # no notice is taken of what a call does not have


def prctl(option: int, *arguments: int) -> int:
    """prctl(2), with at most four arguments. Raises OSError; ENOSYS where this is not Linux."""
    return _checked("prctl", option, *arguments, 0, 0, 0, 0)  # some options want zeros behind their arguments


def _checked(name: str, *arguments: int) -> int:
    result = getattr(_libc, name)(*map(ctypes.c_long, arguments)) if LINUX else -1
    if result < 0:
        code = ctypes.get_errno() if LINUX else errno.ENOSYS
        raise OSError(code, os.strerror(code))
    return result
