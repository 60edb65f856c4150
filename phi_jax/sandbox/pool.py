"""Sandbox: the caller's side. Workers, order, repeats and restarts."""

import contextlib
import os
import selectors
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from phi_jax.errors import UserError

from . import server
from .channel import ChannelClosed
from .codec import CodecError
from .pass_fd import send_file
from .program import Limits, Program, Verdict
from .support import require_full
from .tester import clean

# The interpreter of the server takes nothing from the user's environment (-s, -S, -P: no user site, no site,
# no current directory on the path) but the hash seed that we set: sets then print alike in every run.
# The packages are made bare, without their own imports (the caller's side): each fork would copy that memory.
_COMMAND = """
import sys, types
for name in ("phi_jax", "phi_jax.sandbox"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from phi_jax.sandbox.server import main
main()
"""
_ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "LANG": "C.UTF-8",
    "PATH": os.defpath,
    # numpy's BLAS would start a thread per core, and a candidate is one thread.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TZ")

_GRACE_SECONDS = 30.0  # beyond the longest wall clock, for a server on a loaded machine, before it counts as hung
_START_SECONDS = 60.0
_ATTEMPTS = 2  # servers lost on one program before that is an error
_AHEAD = 64  # programs taken per worker beyond the first one without a verdict


class Sandbox:
    """Runs programs, each in processes of its own, on `workers` fork servers.

    confinement: "full" (Landlock, seccomp, rlimits; UserError here where the kernel lacks one) or "none"
    (processes, rlimits and time limits only: the code can read and write what you can). hash_seed: of the programs'
    interpreters, which the order of their sets follows from.
    """

    def __init__(
        self, *, limits: Limits | None = None, workers: int = 1, confinement: str = "full", hash_seed: int = 0
    ) -> None:
        if confinement not in ("full", "none"):
            raise UserError(f'the sandbox\'s confinement is "full" or "none", not {confinement!r}')
        if workers < 1:
            raise UserError(f"the sandbox needs at least one worker, got {workers}")
        if sys.platform == "win32":
            raise UserError("generated code runs on Linux and macOS only; use WSL, or `phi-jax score` elsewhere")
        if confinement == "full":
            require_full()
        self.limits = limits if limits is not None else Limits()
        self.confinement = confinement
        self._workers = [_Worker(self.limits, confinement, hash_seed) for _ in range(workers)]

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the fork servers and whatever they run. The sandbox may be used again; they start anew."""
        for worker in self._workers:
            worker.stop()

    def run(self, programs: Iterable[Program]) -> Iterator[Verdict]:
        """The programs' verdicts, in order, each as soon as it and all before it are there.

        `programs` is read as needed. A program that met the wall clock without having had its CPU time is run
        once more with nothing beside it before its verdict counts, so that a loaded machine does not turn a
        pass into a timeout. Raises UserError when a fork server cannot be started, or dies twice on the same
        program. Abandoning the iterator ends what runs.
        """
        schedule = _Schedule(programs, _AHEAD * len(self._workers))
        try:
            while True:
                yield from schedule.ready()
                idle = [worker for worker in self._workers if worker.job is None]
                schedule.dispatch(idle, all_idle=len(idle) == len(self._workers))
                busy = [worker for worker in self._workers if worker.job is not None]
                if not busy:
                    return
                for worker in _await_any(busy):
                    job = worker.job
                    assert job is not None
                    schedule.settle(job, worker.finish())
        finally:
            for worker in self._workers:
                if worker.job is not None:
                    worker.stop()


class _Job:
    """One program on its way to a verdict."""

    def __init__(self, index: int, program: Program) -> None:
        self.index = index
        self.program = program
        self.repeated = False
        self.lost = 0  # servers that died on it


class _Schedule:
    """Which program runs next, and which verdict is next in order."""

    def __init__(self, programs: Iterable[Program], ahead: int) -> None:
        self._source = iter(programs)
        self._ahead = ahead
        self._taken = 0
        self._given = 0
        self._exhausted = False
        self._again: deque[_Job] = deque()  # lost with their server
        self._alone: deque[_Job] = deque()  # to be repeated with nothing beside them
        self._verdicts: dict[int, Verdict] = {}

    def ready(self) -> Iterator[Verdict]:
        while self._given in self._verdicts:
            self._given += 1
            yield self._verdicts.pop(self._given - 1)

    def dispatch(self, idle: "list[_Worker]", *, all_idle: bool) -> None:
        if self._alone:
            # Nothing new starts until the others have finished; then one at a time.
            if all_idle:
                idle[0].start(self._alone.popleft())
            return
        starting: list[tuple[_Worker, _Job]] = []
        for worker in idle:
            job = self._next()
            if job is None:
                break
            starting.append((worker, job))
        for worker, _ in starting:
            worker.launch()  # all at once: each takes a tenth of a second to get ready
        for worker, job in starting:
            worker.start(job)

    def _next(self) -> _Job | None:
        if self._again:
            return self._again.popleft()
        if self._exhausted or self._taken - self._given >= self._ahead:
            return None
        for program in self._source:
            self._taken += 1
            return _Job(self._taken - 1, program)
        self._exhausted = True
        return None

    def settle(self, job: _Job, answer: "_Answer | None") -> None:
        if answer is None:
            job.lost += 1
            if job.lost >= _ATTEMPTS:
                raise UserError(
                    f"the sandbox's fork server died {job.lost} times on program {job.index} of this run "
                    "(killed for memory?). It has no verdict; use fewer workers or lower Limits.memory_bytes."
                )
            (self._alone if job.repeated else self._again).append(job)
        elif answer.starved and not job.repeated:
            job.repeated = True
            self._alone.append(job)
        else:
            self._verdicts[job.index] = answer.verdict


class _Answer:
    """What the server said of one run."""

    def __init__(self, answer: tuple[str, str, Any, float], limits: Limits) -> None:
        kind, text, value, cpu = answer
        # Less than most of the CPU time that it could have had: it slept, or the machine was busy.
        self.starved = kind == server.WALL and cpu < 0.8 * min(limits.wall_seconds, limits.cpu_seconds)
        if kind == server.PASSED:
            self.verdict = Verdict(True, "passed", value)
        elif kind in (server.CPU, server.WALL):
            self.verdict = Verdict(False, "timed out")
        else:
            self.verdict = Verdict(False, f"failed: {clean(text)}")


class _Worker:
    """A fork server and the one program that it runs."""

    def __init__(self, limits: Limits, confinement: str, hash_seed: int) -> None:
        self._limits = limits
        self._confinement = confinement
        self._hash_seed = hash_seed
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._ready = False
        self.job: _Job | None = None
        self.deadline = 0.0

    @property
    def link(self) -> socket.socket:
        assert self._link is not None
        return self._link

    def start(self, job: _Job) -> None:
        """Sends the program, starting the server if there is none. Raises UserError if it does not start."""
        self.launch()
        if not self._ready:
            self._await_ready()
        self.job = job
        self.deadline = time.monotonic() + server.PATIENCE * self._limits.wall_seconds + _GRACE_SECONDS
        program = job.program
        # A server that just died is noticed when the answer is read.
        with contextlib.suppress(ChannelClosed, BlockingIOError):
            link = self.link.fileno()
            send_file(link, (program.tests, program.trusted, program.entry_point, program.report), server.MESSAGE_BYTES)
            server.send(link, (program.candidate, program.setup))

    def finish(self) -> _Answer | None:
        """The answer that has arrived; None, and no server any more, if it died or hung."""
        self.job = None
        try:
            if time.monotonic() < self.deadline:
                return _Answer(server.receive(self.link.fileno()), self._limits)
        except (ChannelClosed, CodecError, BlockingIOError, ValueError):
            pass
        self.stop()
        return None

    def stop(self) -> None:
        """Ends the server: it kills what it runs when its link closes; its children die with it anyway."""
        self.job = None
        if self._link is not None:
            self._link.close()
            self._link = None
            self._ready = False
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def launch(self) -> None:
        """Starts the server if there is none. Raises UserError if that cannot be done."""
        if self._link is not None:
            return
        ours, theirs = socket.socketpair()
        # A server that hangs in the middle of a message must not hang us: the kernel gives up, with EAGAIN.
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(_GRACE_SECONDS), 0))
        root = str(Path(__file__).resolve().parents[2])
        environment = _ENVIRONMENT | {k: os.environ[k] for k in _KEPT_VARIABLES if k in os.environ}
        environment["PYTHONHASHSEED"] = str(self._hash_seed)
        with theirs, open(os.devnull, "wb") as null:
            self._link = ours
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-s", "-S", "-P", "-c", _COMMAND, root],
                    stdin=theirs.fileno(),
                    stdout=null,
                    stderr=null,
                    env=environment,
                    cwd="/",
                    close_fds=True,
                    start_new_session=True,  # Ctrl-C is for us; we then end the servers
                )
            except OSError as error:
                self.stop()
                raise UserError(f"the sandbox's fork server cannot be started with {sys.executable}: {error}") from None
        settings = (os.getpid(), self._confinement == "full", asdict(self._limits), import_paths())
        with contextlib.suppress(ChannelClosed, BlockingIOError):  # its end is noticed when we wait for it
            server.send(ours.fileno(), settings)

    def _await_ready(self) -> None:
        problem = f"{sys.executable} ended at once"
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.link, selectors.EVENT_READ)
                if not selector.select(_START_SECONDS):
                    problem = f"no answer in {_START_SECONDS:.0f} s"
                    raise ChannelClosed
            answer = server.receive(self.link.fileno())
            if answer == ("ready",):
                self._ready = True
                return
            problem = str(answer[1])
        except (ChannelClosed, CodecError, BlockingIOError):
            pass
        if self._process is not None:
            self._process.kill()
        self.stop()
        raise UserError(f"the sandbox's fork server did not start: {problem}")


def _await_any(busy: list[_Worker]) -> list[_Worker]:
    """The workers whose answer, or end, has come, or whose deadline has passed; waits for one at least."""
    with selectors.DefaultSelector() as selector:
        for worker in busy:
            selector.register(worker.link, selectors.EVENT_READ, worker)
        while True:
            left = min(worker.deadline for worker in busy) - time.monotonic()
            done = [key.data for key, _ in selector.select(max(left, 0.0))]
            done += [w for w in busy if w not in done and w.deadline <= time.monotonic()]
            if done:
                return done


def import_paths() -> list[str]:
    """Where a candidate may import from, and all that it may read besides system libraries: the standard
    library and the installed packages. Not the current directory, not PYTHONPATH, not an editable install."""
    paths = sysconfig.get_paths()
    names = [paths["stdlib"], paths["platstdlib"], os.path.join(paths["platstdlib"], "lib-dynload")]
    names += [path for path in sys.path if path.endswith((".zip", "lib-dynload"))]
    names += [paths["purelib"], paths["platlib"]]
    return list(dict.fromkeys(os.path.realpath(name) for name in names if os.path.exists(name)))
