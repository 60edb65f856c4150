"""Landlock: which files the process may read; it may write none. Linux 5.13 (ABI 1) and later."""

import ctypes
import os
import struct
from collections.abc import Iterable

from .libc import syscall

# The numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE_FILE = 1 << 1

# Rights by the ABI that brought them. What a ruleset handles and no rule allows is denied, so each right
# that the kernel knows is handled: 13 at first, then REFER, TRUNCATE and IOCTL_DEV.
_RIGHTS = (
    {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15},  # on files
    {4: 0b11},  # on the network: bind and connect TCP
    {6: 0b11},  # scopes: abstract Unix sockets; signals
)

_O_PATH = getattr(os, "O_PATH", 0)


def abi() -> int:
    """Landlock's ABI version; 0 where the kernel has none, or it is switched off, or not Linux."""
    try:
        return syscall(_CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def ruleset(version: int, readable: Iterable[str]) -> int:
    """A descriptor of rules for `restrict`: files beneath `readable` may be read, /dev/null also written.

    Paths that do not exist are left out. Rights unknown to ABI `version` are masked; seccomp denies the
    system calls behind them, so an old kernel protects the same. Raises OSError.
    """
    handled = (sum(bits for since, bits in rights.items() if version >= since) for rights in _RIGHTS)
    attr = (ctypes.c_uint64 * 3)(*handled)  # struct landlock_ruleset_attr
    # Kernels refuse a longer structure than they know if the rest is not zero; give each its own length.
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = syscall(_CREATE_RULESET, ctypes.addressof(attr), size, 0)
    grants = [(path, _READ_FILE | _READ_DIR) for path in readable]
    for path, allowed in [*grants, ("/dev/null", _READ_FILE | _WRITE_FILE)]:
        try:
            fd = os.open(path, _O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if not os.path.isdir(path):
                allowed &= ~_READ_DIR
            # struct landlock_path_beneath_attr, which is packed.
            rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, fd))
            syscall(_ADD_RULE, rules, _RULE_PATH_BENEATH, ctypes.addressof(rule), 0)
        finally:
            os.close(fd)
    return rules


def restrict(rules: int) -> None:
    """Puts this thread under `rules` for good. Needs no_new_privs. Raises OSError."""
    syscall(_RESTRICT_SELF, rules, 0)
