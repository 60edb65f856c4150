"""The C library's `syscall` and `prctl`, for what Python does not offer."""

import ctypes
import errno
import os
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38

LINUX = sys.platform == "linux"

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
if _libc is not None:
    # Converted by ctypes itself: both run in each child. A call takes no notice of arguments that it does not have.
    _libc.syscall.argtypes = [ctypes.c_long] * 7
    _libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def syscall(number: int, *arguments: int) -> int:
    """The system call's result, with at most six arguments. Raises OSError; ENOSYS where this is not Linux."""
    return _checked(_libc and _libc.syscall, number, *arguments, *[0] * (6 - len(arguments)))


def prctl(option: int, *arguments: int) -> int:
    """prctl(2), with at most four arguments. Raises OSError; ENOSYS where this is not Linux."""
    return _checked(_libc and _libc.prctl, option, *arguments, *[0] * (4 - len(arguments)))


def _checked(function: Any, *arguments: int) -> int:
    result: int = function(*arguments) if function else -1
    if result < 0:
        code = ctypes.get_errno() if function else errno.ENOSYS
        raise OSError(code, os.strerror(code))
    return result
