"""Brings a reply to each request into the journal: all endpoints at once, under one budget, until stopped.

Workers draw from one iterator an endpoint, so memory does not grow with the number of requests.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping

from phi_jax.errors import Preempted
from phi_jax.progress import Progress
from phi_jax.teacher.budget import Run, dollars
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Endpoint
from phi_jax.teacher.request import Request, Status
from phi_jax.teacher.server.batch import Batches
from phi_jax.teacher.server.live import Live


def ask(
    jobs: Mapping[Endpoint, Iterable[Request]],
    journal: Journal,
    *,
    cap: int,
    label: str,
    total: int,
) -> Run:
    """Returns when each request has a reply in the journal; those that have one are not asked again.

    jobs: for each endpoint its requests, drawn as they are needed. cap: picodollars, on all that the journal ever
    booked. label, total: for the progress line.

    Raises UserError where the cap leaves no room, and where a server answers nobody: is not there, refuses the key,
    the model, the quota or every request. SIGINT and SIGTERM end the run with KeyboardInterrupt and Preempted once what
    is in flight has arrived; a second signal does not wait for it. What arrived is kept, whatever is raised.
    """
    run, busy = Run(journal, cap), set[str]()
    with (
        Progress(label, total, "replies") as progress,
        asyncio.Runner() as runner,
        _signals(run, runner.get_loop()) as signals,
    ):

        def new(requests: Iterable[Request]) -> Iterator[Request]:
            """Those that the journal does not have and that are not under way."""
            for request in requests:
                if request.key in busy or journal.find(request.key):
                    run.found += 1
                    progress.skip(1)
                else:
                    busy.add(request.key)
                    yield request

        def count(key: str, status: Status) -> None:
            busy.discard(key)
            run.counts[status] += 1
            progress.advance(1, f"{dollars(journal.spent)} of {dollars(cap)}")

        async def one(endpoint: Endpoint, requests: Iterable[Request]) -> None:
            asker = Batches if endpoint.mode == "batch" else Live
            await asker(endpoint, run).ask(new(requests), count)

        async def every_endpoint() -> None:
            await asyncio.gather(*(run.guard(one(*job)) for job in jobs.items()))

        with contextlib.suppress(asyncio.CancelledError):
            runner.run(every_endpoint())
    if signal.SIGTERM in signals[:1]:
        raise Preempted(f"{label}: asked to stop; the replies that arrived are kept")
    if signals:
        raise KeyboardInterrupt
    if run.errors:
        raise run.errors[0]
    return run


@contextlib.contextmanager
def _signals(run: Run, loop: asyncio.AbstractEventLoop) -> Iterator[list[int]]:
    """In the main thread, SIGINT and SIGTERM stop the run; elsewhere they are not this function's to handle.

    Gives the signals that came. After the first, what is in flight is awaited; after the second, it is booked as lost.
    """
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        run.stopping.set()
        if len(came) > 1:
            for task in asyncio.all_tasks(loop):
                task.cancel()

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if main}
    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        yield came
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
