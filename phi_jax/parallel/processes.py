"""The processes of one run: how they find each other (jax.distributed), and what process 0 does for all.

Nothing here imports jax before it is needed: with one process, none of it is.
"""

import atexit
import contextlib
import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from phi_jax import progress
from phi_jax.errors import EXIT_FAILED, PeerLost, Preempted, UserError, one_line
from phi_jax.store.artifact import Json

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_NEEDED = {"slurm": ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"), "env": _ENVIRONMENT}
_CONNECT_SECONDS = 300
_LEADER_MILLISECONDS = 24 * 3600 * 1000  # process 0 may have much to hash; the watch sees one that died
_ENDED = "phi_jax/ended"  # in the store: {"process", "code", "message"} of a process that ends the run for all
_LEADER_STAYS_SECONDS = 3.0  # process 0 keeps the store, in which the others read why it ends
_count = itertools.count()


def keep_freed_memory() -> None:
    """Has glibc keep freed memory instead of giving it back to the kernel, in this process from now on.

    XLA:CPU allocates a step's buffers anew in each step. Given back in between, they are 20,000 page faults a step of
    nano, a sixth of its time (tests/benchmarks/NOTES.md). Without effect with another C library.
    """
    import ctypes

    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too,
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: which never shrinks


def give_memory_back() -> None:
    """Gives the kernel what a stage has freed and its libraries keep: 0.6 GiB after a training of nano."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    gc.unfreeze()
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Gives the kernel the freed memory that `keep_freed_memory` kept. Without effect with another C library."""
    import ctypes

    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def set_cpu_devices(count: int) -> None:
    """On a machine without accelerator, cuts the CPU into `count` devices, each with threads of its own.

    What that is worth stands in tests/benchmarks/NOTES.md. Must come before jax is first used; without effect after
    that, and the mesh then does not fit.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return  # the user has said how many
    os.environ["JAX_NUM_CPU_DEVICES"] = str(count)  # read when jax is imported
    if "jax" in sys.modules:
        import jax

        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def connect(method: str) -> None:
    """Joins the other processes of the run; before jax is first used.

    method: "slurm" (one task a process, as srun starts them), "tpu" (TPU VMs of one or more slices) or "env"
    (JAX_COORDINATOR_ADDRESS = host:port of process 0, JAX_NUM_PROCESSES, JAX_PROCESS_ID). Raises UserError where the
    environment is not of that kind, PeerLost where the processes do not meet: one of them may only have been slow.
    """
    if missing := [name for name in _NEEDED.get(method, ()) if name not in os.environ]:
        starts = "with srun" if method == "slurm" else "with them set, as launch/local does"
        raise UserError(f"--distributed {method}: {', '.join(missing)} not set; start every process {starts}")
    import jax

    arguments: Json = {}
    if method == "slurm":
        arguments = {"cluster_detection_method": "slurm"}
    elif method == "env":
        address, number, this = (os.environ[name] for name in _ENVIRONMENT)
        arguments = {"coordinator_address": address, "num_processes": int(number), "process_id": int(this),
                     "cluster_detection_method": "deactivate"}  # fmt: skip
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=_CONNECT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise PeerLost(
            f"--distributed {method}: the processes did not meet within {_CONNECT_SECONDS} s "
            f"({one_line(error)}); start all of them together, with one address of process 0"
        ) from None


def is_connected() -> bool:
    """True where this process has joined a run of several, or of one that could be several."""
    return "jax" in sys.modules and _state().client is not None


def index() -> int:
    """This process's number; 0 where there is one process."""
    return _state().process_id if is_connected() else 0


def count() -> int:
    """How many processes the run has."""
    return _state().num_processes if is_connected() else 1


def is_leader() -> bool:
    """True on process 0, which alone writes what is not sharded."""
    return index() == 0


def note(line: str) -> None:
    """As progress.note, once for all processes."""
    if is_leader():
        progress.note(line)


def store() -> Any:
    """The key-value store that all processes share; `is_connected` must hold."""
    return _state().client


def find(key: str) -> str | None:
    """What the store has under a key, without waiting for it."""
    try:
        return store().key_value_try_get(key)
    except Exception:  # absent: jaxlib raises its own type
        return None


def gather(value: Any) -> list[Any]:
    """The JSON-able value of every process, in their order, on all of them; every process must call it."""
    if count() == 1:
        return [value]
    key = f"phi_jax/gather/{next(_count)}"
    store().key_value_set(f"{key}/{index()}", json.dumps(value))
    return [json.loads(store().blocking_key_value_get(f"{key}/{p}", _LEADER_MILLISECONDS)) for p in range(count())]


def on_leader(work: Callable[[], Any]) -> Any:
    """Runs `work` on process 0 and gives its JSON-able result to all; a UserError is raised by all.

    Every process must make the same calls in the same order.
    """
    if count() == 1:
        return work()
    try:
        answer = [work(), None] if is_leader() else []
    except UserError as error:
        answer = [None, str(error)]
    result, problem = gather(answer)[0]
    if problem is not None:
        raise UserError(problem)
    return result


# --- The end of a run ----------------------------------------------------------------------------------------


def tell_end(code: int, message: str) -> None:
    """Tells the other processes that this one ends with an exit code; their watch ends them with it too."""
    if count() > 1:
        about = json.dumps({"process": index(), "code": code, "message": message})
        with contextlib.suppress(Exception):  # the store is gone: so are the others
            store().key_value_set(_ENDED, about, allow_overwrite=True)


def told_end() -> Json | None:
    """{"process", "code", "message"} where another process has called `tell_end`."""
    about = json.loads(find(_ENDED) or "null")
    return about if about and about["process"] != index() else None


def let_others_read() -> None:
    """Waits on process 0 until the others have read why the run ends: the store ends with it."""
    if count() > 1 and is_leader():
        time.sleep(_LEADER_STAYS_SECONDS)


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """An error inside, which may be this process's alone, ends the others too, with EXIT_FAILED.

    Else they would take this process for lost, and a launcher would start all of them again and again.
    """
    try:
        yield
    except (Preempted, PeerLost):
        raise
    except Exception as error:
        if count() > 1:
            tell_end(EXIT_FAILED, f"failed: {' '.join(str(error).split())[:500]}")
            let_others_read()
            atexit.register(_leave_at_once)
        raise


def _leave_at_once() -> None:
    """Exits before jax's shutdown barrier, which waits for the others and aborts once they are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def _state() -> Any:
    # jax offers no public way to the store; Orbax takes this one too.
    from jax._src import distributed

    return distributed.global_state
