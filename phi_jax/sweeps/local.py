"""Runs the jobs of a sweep on this machine, several at once, with its devices divided among them."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_jax.errors import Preempted, UserError
from phi_jax.parallel.supervise import die_with_parent
from phi_jax.progress import say
from phi_jax.sweeps.jobs import LOG, Job, begun, commands, last_line, needed_by, refuse_failed, settle
from phi_jax.sweeps.shared import Shared

_LOOK_SECONDS = 0.2


@dataclasses.dataclass
class _Running:
    number: int
    point: str  # in whose work directory it runs
    place: int  # of the devices
    child: subprocess.Popen
    since: float


def run(directory: Path, jobs: Sequence[Job], parallel: int) -> None:
    """Runs what is not whole. A job that fails stops only those that need it.

    Raises UserError at the end where one failed.
    """
    shared, (cores, gpus) = Shared(directory), shares(parallel)
    due = {number: settle(shared, job) for number, job in enumerate(jobs)}
    waiting = [number for number, labels in due.items() if labels]
    running: list[_Running] = []
    failed: dict[int, str] = {}

    def can_begin(number: int) -> str | None:
        """The point to run a job in, or None where it has to wait."""
        job, busy = jobs[number], {one.point for one in running}
        needs = {*waiting, *(one.number for one in running)} & needed_by(jobs, number)
        if needs or (job.asks_teachers and any(jobs[one.number].asks_teachers for one in running)):
            return None
        interrupted = begun(shared, job)
        return next((p for p in ([interrupted] if interrupted else job.points) if p not in busy), None)

    with _ended(running):
        while waiting or running:
            for number in list(waiting):
                if lost := needed_by(jobs, number) & failed.keys():
                    waiting.remove(number)
                    failed[number] = f"needs {jobs[min(lost)].name}"
                elif len(running) < parallel and (point := can_begin(number)):
                    waiting.remove(number)
                    place = min({*range(parallel)} - {one.place for one in running})
                    log = shared.point(point) / LOG
                    say(f"{jobs[number].name}: {len(due[number])} stages, log {log}")
                    command, _ = commands(shared, jobs[number], point, due[number])
                    child = _start(command, log, cores[place], gpus[place])
                    running.append(_Running(number, point, place, child, time.monotonic()))
            time.sleep(_LOOK_SECONDS)
            for one in [one for one in running if one.child.poll() is not None]:
                running.remove(one)
                job, seconds = jobs[one.number], time.monotonic() - one.since
                if one.child.returncode == 0 and not settle(shared, job):
                    say(f"{job.name}: done in {seconds:.0f} s")
                else:
                    failed[one.number] = f"exit code {one.child.returncode}; {last_line(shared.point(one.point))}"
                    say(f"{job.name}: failed: {failed[one.number]}")
    refuse_failed(jobs, failed)


def shares(parallel: int) -> tuple[list[list[int]], list[list[str]]]:
    """The cores, and the GPUs, of each of so many jobs. Raises UserError where they cannot be divided equally."""
    if parallel < 1:
        raise UserError(f"--parallel {parallel}: must be at least 1")
    return _divided(sorted(os.sched_getaffinity(0)), parallel, "cores"), _divided(_gpus(), parallel, "GPUs")


def _start(command: Sequence[str], log: Path, cores: list[int], gpus: list[str]) -> subprocess.Popen:
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})}

    def begin() -> None:
        die_with_parent()
        os.sched_setaffinity(0, cores)

    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment, preexec_fn=begin
        )


@contextlib.contextmanager
def _ended(running: list[_Running]) -> Iterator[None]:
    """No child outlives this process; SIGTERM ends it as Ctrl-C does, and what is made is kept."""

    def stop(*_: object) -> None:
        raise Preempted("asked to stop")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for one in running:
            one.child.terminate()
        for one in running:
            one.child.wait()


def _divided(devices: list[Any], parallel: int, what: str) -> list[list[Any]]:
    """Equal shares."""
    if not devices:
        return [[]] * parallel
    if len(devices) % parallel:
        raise UserError(
            f"--parallel {parallel}: {len(devices)} {what} cannot be divided equally; name a divisor of them"
        )
    each = len(devices) // parallel
    return [devices[place * each : (place + 1) * each] for place in range(parallel)]


def _gpus() -> list[str]:
    """The GPUs that a process of this one may use, as CUDA_VISIBLE_DEVICES calls them: by number or by name."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    # CUDA counts from 0 those that are here, whatever their files are called.
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
