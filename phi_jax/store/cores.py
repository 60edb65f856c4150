"""The cores that this process may use, and work that is spread over them, in processes of its own, or over a cluster of
Ray.
"""

import collections
import contextlib
import functools
import io
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

from phi_jax.errors import UserError, one_line
from phi_jax.progress import say

_function: Callable[[Any], Any]  # of a child
_ray: Any = None  # the module, from `use_ray` on


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """How many processes `spread` can have at work: one for each core of the Ray cluster, else of this process."""
    return int(_ray.cluster_resources()["CPU"]) if _ray else cores()


def on_ray() -> bool:
    """Whether `use_ray` was called."""
    return _ray is not None


def use_ray() -> None:
    """From now on `spread` hands out tasks of a Ray cluster: the one that RAY_ADDRESS names, else one of this machine's
    cores, which ends with this process.

    Raises UserError where Ray is not installed, and where the cluster cannot be reached.
    """
    global _ray
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        import ray

        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="critical")
    except ImportError:
        raise UserError("--runner ray: Ray is not installed; pip install 'phi-jax[ray]'") from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--runner ray: RAY_ADDRESS={address} gives no cluster ({one_line(error)}); name one that runs, or none "
            "to use this machine's cores"
        ) from None
    _ray = ray


def spread(function: Callable[[Any], Any], items: Sequence[Any], processes: int, *, label: str) -> Iterator[Any]:
    """What `function` gives for the items, in their order, computed by so many processes; by this one where it is one.

    They are fresh interpreters, since a fork of a process that has started jax may hang: function and items are
    pickled, and a script that calls this needs its `if __name__ == "__main__"`. They end at once with this process,
    however it ends, and with an error in one of them, which is raised here. Raises UserError where one was killed.

    After `use_ray` they are tasks of the cluster, twice as many handed out at once as it has cores. Ray starts a task
    again that a lost worker held, three times at most; a task's own error ends it.
    """
    processes = min(processes, len(items))
    if processes < 2:
        yield from map(function, items)
        return
    if _ray:
        yield from _over_cluster(function, items, label)
        return
    context = multiprocessing.get_context("spawn")
    alive, held = context.Pipe(duplex=False)
    # Left in the other order: a closed pipe ends what is still at work, which the pool would wait for.
    with ProcessPoolExecutor(processes, context, _begin, (alive, function)) as pool, held:
        try:
            # A terminal sends it to all; the children, which start with it blocked, are ended by the parent.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            results = pool.map(_call, items)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            yield from results
        except (BrokenProcessPool, BrokenPipeError):
            raise UserError(
                f"{label}: one of its {processes} processes was killed, perhaps for want of memory; run the same "
                "command again to go on"
            ) from None


def _begin(parent: Connection, function: Callable[[Any], Any]) -> None:
    """In a child: ends it when the other end of `parent` is closed, which happens to a killed parent's too."""
    global _function
    _function = function
    threading.Thread(target=lambda: os._exit(parent.poll(None)), daemon=True).start()


def _call(item: Any) -> Any:
    return _function(item)


# --- On a cluster -----------------------------------------------------------------------------------------------------


def _over_cluster(function: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
    call = functools.partial(_ray.remote(_task).remote, (_ray.put(function),), os.getcwd())
    handed_out = map(call, items)
    waiting = collections.deque(itertools.islice(handed_out, 2 * workers()))
    while waiting:
        try:
            result, said = _ray.get(waiting.popleft())
        except _ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except _ray.exceptions.RayError as error:
            raise UserError(
                f"{label}: the Ray cluster lost a task's workers again and again, perhaps for want of memory "
                f"({one_line(error)}); run the same command again to go on"
            ) from None
        for line in said.splitlines():
            say(line)
        yield result
        waiting.extend(itertools.islice(handed_out, 1))


def _task(held: tuple[Any], place: str, item: Any) -> tuple[Any, str]:
    """In a worker: (the function's result, what it said to the user). place: what relative paths are relative to."""
    with contextlib.suppress(OSError):
        os.chdir(place)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return _held(*held)(item), said.getvalue()


@functools.lru_cache(1)  # what a stage holds may be large: a worker unpickles it once
def _held(reference: Any) -> Callable[[Any], Any]:
    import ray

    return ray.get(reference)
