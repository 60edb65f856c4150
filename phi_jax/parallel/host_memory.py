"""How the host's memory is handed out."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Has glibc hand out freed memory again instead of giving it back to the kernel, in this process from now on.

    XLA:CPU allocates the buffers of a step anew in each step. Given back in between, they are 20,000 page faults a step
    of nano, a sixth of its time (tests/benchmarks/NOTES.md). Without effect with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap too,
    mallopt(_M_TRIM_THRESHOLD, -1)  # which never shrinks
