"""The C library's `syscall` and `prctl`, for what Python does not offer."""

import ctypes
import errno
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

LINUX = sys.platform == "linux"

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
if _libc is not None:
    # Converted by ctypes itself: both run in each child. A call takes no notice of arguments that it does not have.
    _libc.syscall.argtypes = [ctypes.c_long] * 7
    _libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def syscall(
    number: int, first: int = 0, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0, sixth: int = 0
) -> int:
    """The system call's result. Raises OSError; ENOSYS where this is not Linux."""
    if _libc is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result: int = _libc.syscall(number, first, second, third, fourth, fifth, sixth)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    """prctl(2). Raises OSError; ENOSYS where this is not Linux."""
    if _libc is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result: int = _libc.prctl(option, second, third, fourth, fifth)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
