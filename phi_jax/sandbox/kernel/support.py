"""What this machine offers to confine generated code with."""

import platform
import sys
from typing import NamedTuple

from phi_jax.errors import UserError

from . import landlock, seccomp


class Support(NamedTuple):
    """missing: what confinement="full" lacks here, empty if nothing. description: one line for a user."""

    missing: tuple[str, ...]
    description: str


def support() -> Support:
    """Asks the running kernel; changes nothing."""
    missing, found = [], ""
    if sys.platform != "linux":
        missing.append(f"Landlock and seccomp (they are Linux's; this is {platform.system()})")
    else:
        if landlock.abi() < 1:
            missing.append(
                "Landlock (Linux 5.13 or later, landlock in the kernel's lsm= list, not blocked by a container)"
            )
        if problem := seccomp.supported():
            missing.append(f"seccomp ({problem})")
        found = f"Landlock ABI {landlock.abi()}, seccomp filters"
    said = f"missing {' and '.join(missing)}" if missing else found
    return Support(tuple(missing), f"{platform.system()} {platform.release()} {platform.machine()}: {said}")


def require_full() -> None:
    """Raises UserError where generated code cannot be confined."""
    if missing := support().missing:
        raise UserError(
            f"generated code cannot be confined on this machine: missing {' and '.join(missing)}. "
            "Run it unconfined all the same with `--sandbox none`, or carry the samples to a machine that "
            "has these and run `phi-jax score` there."
        )
