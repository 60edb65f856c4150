"""The cores that this process may use, and work that is spread over them, in processes of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

from phi_jax.errors import UserError

_function: Callable[[Any], Any]  # of a child


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(function: Callable[[Any], Any], items: Sequence[Any], processes: int, *, label: str) -> Iterator[Any]:
    """What `function` gives for the items, in their order, computed by so many processes; by this one where it is one.

    They are fresh interpreters, since a fork of a process that has started jax may hang: function and items are
    pickled, and a script that calls this needs its `if __name__ == "__main__"`. They end at once with this process,
    however it ends, and with an error in one of them, which is raised here. Raises UserError where one was killed.
    """
    processes = min(processes, len(items))
    if processes < 2:
        yield from map(function, items)
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
