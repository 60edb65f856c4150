"""The cores that this process may use, and work that is spread over them, in processes of its own, or over a cluster of
Ray.
"""

import collections
import contextlib
import io
import itertools
import logging
import multiprocessing
import os
import platform
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

from etils.epath import Path, PathLike

from phi_jax.errors import UserError, one_line
from phi_jax.progress import say

Function = Callable[[Any], Any]
_function: Function  # of a child
_ray: Any = None  # the module, from `use_ray` on
_workdir: PathLike


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(here: int) -> int:
    """How many processes `spread` can have at work: one for each core of the Ray cluster, or else `here`."""
    return int(_ray.cluster_resources()["CPU"]) if _ray else here


def use_ray(workdir: PathLike) -> None:
    """From now on `spread` hands out tasks of a Ray cluster: the one that RAY_ADDRESS names, else one of this machine's
    cores, which ends with this process. workdir: what every node must see.

    Raises UserError where Ray is not installed, and where the cluster cannot be reached.
    """
    global _ray, _workdir
    address = os.environ.get("RAY_ADDRESS", "local")
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        import ray

        if host:  # where nobody listens, Ray would try for a quarter of an hour
            socket.create_connection((host, port), 10).close()
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    except ImportError:
        raise UserError("--runner ray: Ray is not installed; pip install 'phi-jax[ray]'") from None
    except Exception as error:  # some are of no other kind
        raise UserError(
            f"--runner ray: RAY_ADDRESS={address}: no cluster ({one_line(error)}); name one that runs, or local for "
            "this machine's cores"
        ) from None
    _ray, _workdir = ray, workdir


def spread(function: Function, items: Iterable[Any], processes: int, *, label: str) -> Iterator[Any]:
    """What `function` gives for the items, in their order, computed by so many processes; by this one where it is one.

    They are fresh interpreters, since a fork of a process that has started jax may hang: function and items are
    pickled, and a script that calls this needs its `if __name__ == "__main__"`. They end at once with this process,
    however it ends, and with an error in one of them, which is raised here. Raises UserError where one was killed. For
    the main thread.

    After `use_ray` they are tasks of the cluster, of which twice as many as it has cores are handed out at a time. Ray
    starts a task again that died with its worker, three times at most; an error that a task raises is raised here.
    """
    if processes > 1 and _ray:
        yield from _over_cluster(function, items, label)
        return
    if processes > 1:
        items = list(items)
        processes = min(processes, len(items))
    if processes < 2:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    alive, held = context.Pipe(duplex=False)
    # Left in the other order: a closed pipe ends what is still at work, which the pool would wait for.
    with ProcessPoolExecutor(processes, context, _begin, (alive, function)) as pool, held:
        try:
            with _uninterrupted():
                # Not pool.map, which cancels what is left: when the children end, a thread of the pool fails over that.
                results = [pool.submit(_call, item) for item in items][::-1]
            while results:
                yield results.pop().result()
        except (BrokenProcessPool, BrokenPipeError):
            raise UserError(
                f"{label}: one of its {processes} processes was killed, perhaps for want of memory; run the same "
                "command again to go on"
            ) from None


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C, which a terminal sends to all, comes afterwards; the children that start meanwhile never see it: one
    that is interrupted while it starts, or whose parent is, has a traceback for the user.
    """
    came = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))  # it may reach another thread
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what the children begin with
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _begin(parent: Connection, function: Function) -> None:
    """In a child: ends it when the other end of `parent` is closed, which happens to a killed parent's too."""
    global _function
    _function = function
    threading.Thread(target=lambda: os._exit(parent.poll(None)), daemon=True).start()


def _call(item: Any) -> Any:
    return _function(item)


def _over_cluster(function: Function, items: Iterable[Any], label: str) -> Iterator[Any]:
    place, workdir = os.getcwd(), _workdir
    # Ray keeps what is remote in each worker: what a stage holds is unpickled once.
    tasks = map(_ray.remote(lambda item: _task(function, place, workdir, item)).remote, items)
    waiting = collections.deque(itertools.islice(tasks, 2 * workers(1)))
    while waiting:
        try:
            result, said = _ray.get(waiting.popleft())
        except _ray.exceptions.RayError as error:
            lost = f"{label}: its workers died ({one_line(error)}), perhaps for want of memory; run the command again"
            raise getattr(error, "cause", UserError(lost)) from error
        for line in said:
            say(line)
        yield result
        waiting.extend(itertools.islice(tasks, 1))


def _task(function: Function, place: str, workdir: PathLike, item: Any) -> tuple[Any, list[str]]:
    """In a worker: (the function's result, what was said to the user). place: where relative paths start."""
    with contextlib.suppress(OSError):
        os.chdir(place)
    if not Path(workdir).exists():
        raise UserError(f"--workdir {workdir}: not there on {platform.node()}; all nodes must share its disk")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return function(item), said.getvalue().splitlines()
