"""The processes of one run: how they find each other (jax.distributed), and what process 0 does for all.

Nothing here imports jax before it is needed: with one process, none of it is.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from phi_jax import progress
from phi_jax.errors import EXIT_FAILED, PeerLost, Preempted, UserError

METHODS = ("env", "slurm", "tpu")
_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_CONNECT_SECONDS = 300
_LEADER_MILLISECONDS = 24 * 3600 * 1000  # process 0 may have terabytes to checksum; a dead one is the watch's business
_count = itertools.count()
FAILED = "phi_jax/failed"  # in the store: {"process", "message"} of one that could not go on
LEADER_STAYS_SECONDS = 3.0  # process 0 keeps the store, in which the others must read why it ends


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
    needed = {"slurm": ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"), "env": _ENVIRONMENT}
    missing = [name for name in needed.get(method, ()) if name not in os.environ]
    if missing:
        starts = "with srun" if method == "slurm" else "with them set, as launch/local does"
        raise UserError(f"--distributed {method}: {', '.join(missing)} not set; start every process {starts}")
    import jax

    arguments: dict[str, Any] = {"slurm": {"cluster_detection_method": "slurm"}, "tpu": {}, "env": {}}[method]
    if method == "env":
        arguments = {
            "coordinator_address": os.environ["JAX_COORDINATOR_ADDRESS"],
            "num_processes": int(os.environ["JAX_NUM_PROCESSES"]),
            "process_id": int(os.environ["JAX_PROCESS_ID"]),
            "cluster_detection_method": "deactivate",
        }
    # SIGTERM is ours to handle (parallel/watch.py).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=_CONNECT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise PeerLost(
            f"--distributed {method}: the processes did not meet within {_CONNECT_SECONDS} s "
            f"({' '.join(str(error).split())[:200]}); start all of them together, with one address of process 0"
        ) from None


def index() -> int:
    """This process's number; 0 where there is one process."""
    return _state().process_id if _connected() else 0


def count() -> int:
    """How many processes the run has."""
    return _state().num_processes if _connected() else 1


def is_leader() -> bool:
    """True on process 0, which alone writes what is not sharded."""
    return index() == 0


def say(line: str) -> None:
    """Prints a line for the user, once for all processes."""
    if is_leader():
        progress.say(line)


def store() -> Any:
    """The key-value store that all processes share; there must be more than one."""
    return _state().client


def on_leader(work: Callable[[], Any]) -> Any:
    """Runs `work` on process 0 and gives its JSON-able result to all; a UserError is raised by all.

    Every process must make the same calls in the same order.
    """
    if count() == 1:
        return work()
    key = f"phi_jax/on_leader/{next(_count)}"
    if not is_leader():
        answer = json.loads(store().blocking_key_value_get(key, _LEADER_MILLISECONDS))
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["result"]
    try:
        result = work()
    except UserError as error:
        store().key_value_set(key, json.dumps({"error": str(error)}))
        raise
    store().key_value_set(key, json.dumps({"result": result}))
    return result


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """An error inside, which may be this process's alone, is told to the others; their watch ends them with it.

    They would take this one for dead, and a launcher would start all of them again and again.
    """
    try:
        yield
    except (Preempted, PeerLost):
        raise
    except Exception as error:
        if count() > 1:
            about = json.dumps({"process": index(), "message": " ".join(str(error).split())[:500]})
            with contextlib.suppress(Exception):  # the store is gone: so are the others
                store().key_value_set(FAILED, about, allow_overwrite=True)
            if is_leader():
                time.sleep(LEADER_STAYS_SECONDS)
            atexit.register(_leave_at_once)
        raise


def _leave_at_once() -> None:
    """Comes before jax's own farewell, which waits for the others and aborts this process once they are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def gather(value: Any) -> list[Any]:
    """The JSON-able value of every process, in their order, on all of them; every process must call it."""
    if count() == 1:
        return [value]
    round_key = f"phi_jax/gather/{next(_count)}"
    store().key_value_set(f"{round_key}/{index()}", json.dumps(value))
    answers = [store().blocking_key_value_get(f"{round_key}/{p}", _LEADER_MILLISECONDS) for p in range(count())]
    return [json.loads(answer) for answer in answers]


def all_agree(agrees: bool) -> bool:
    """True where every process says so; every process must call it."""
    return all(gather(agrees))


def _state() -> Any:
    # jax offers no public door to the store; Orbax takes this one too.
    from jax._src import distributed

    return distributed.global_state


def _connected() -> bool:
    return "jax" in sys.modules and _state().client is not None
