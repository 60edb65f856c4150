"""What this machine offers to confine generated code with."""

import platform
import sys
from dataclasses import dataclass

from phi_jax.errors import UserError

from . import landlock, seccomp


@dataclass(frozen=True)
class Support:
    """`full` says whether confinement="full" works here; `missing` names what it lacks (empty if nothing)."""

    landlock_abi: int
    """Landlock's ABI version: 1 (Linux 5.13) to 7 (6.15) and later; 0: none."""
    seccomp: bool
    missing: tuple[str, ...]
    description: str
    """One line for a user: what there is, or what is missing."""

    @property
    def full(self) -> bool:
        return not self.missing


def support() -> Support:
    """Asks the running kernel; changes nothing."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform != "linux":
        missing = (f"Landlock and seccomp (they are Linux's; this is {platform.system()})",)
        return Support(0, False, missing, f"{system}: missing {missing[0]}")
    abi = landlock.abi()
    problem = seccomp.supported()
    found = []
    if abi < 1:
        found.append("Landlock (Linux 5.13 or later, landlock in the kernel's lsm= list, not blocked by a container)")
    if problem is not None:
        found.append(f"seccomp ({problem})")
    if found:
        description = f"{system}: missing {' and '.join(found)}"
    else:
        description = f"{system}: Landlock ABI {abi}, seccomp filters"
    return Support(abi, problem is None, tuple(found), description)


def require_full() -> Support:
    """`support()`, or UserError where generated code cannot be confined."""
    found = support()
    if not found.full:
        raise UserError(
            f"generated code cannot be confined on this machine: missing {' and '.join(found.missing)}. "
            "Run it unconfined all the same with `--sandbox none`, or carry the samples to a machine that "
            "has these and run `phi-jax score` there."
        )
    return found
