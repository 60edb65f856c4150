"""Sandbox: the caller's side. Workers, order, repeats and restarts."""

import contextlib
import os
import resource
import selectors
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from phi_jax.errors import UserError

from . import server
from .channel import ChannelClosed
from .codec import CodecError
from .kernel.confine import OPEN_FILES
from .kernel.support import require_full
from .program import Limits, Program, Verdict

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

_HANG_SECONDS = 60.0  # without an answer that is due, on a loaded machine, before a server counts as hung
_ATTEMPTS = 2  # servers lost on one program before that is an error
_AHEAD = 64  # programs taken per worker beyond the first one without a verdict

_KNOWN = Program(
    "import json\ndef f(x): return json.loads(json.dumps([x])) + [len(bytearray(1 << 20))]",
    "assert f(1) == [1, 1 << 20]",
    "f",
)
"""Passes wherever the sandbox works: it imports, takes memory, is called. Each fork server runs it first."""


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
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if open_files != resource.RLIM_INFINITY and open_files < OPEN_FILES:
            raise UserError(
                f"a process may hold only {open_files} open files here (RLIMIT_NOFILE) and the sandbox needs "
                f"{OPEN_FILES}: `ulimit -n {OPEN_FILES}` in the shell that starts this"
            )
        if confinement == "full":
            require_full()
        self.limits = limits if limits is not None else Limits()
        self.confinement = confinement
        self._workers = [_Worker(self.limits, confinement, hash_seed) for _ in range(workers)]

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the fork servers and whatever they run. The sandbox may be used again; they start anew."""
        for worker in self._workers:
            worker.stop()

    def run(self, programs: Iterable[Program]) -> Iterator[Verdict]:
        """The programs' verdicts, in order, each as soon as it and all before it are there.

        `programs` is read as needed. A program that met the wall clock without having had its CPU time is run
        once more with nothing beside it before its verdict counts, so that a loaded machine does not turn a
        pass into a timeout. Raises UserError when a fork server cannot be started, does not pass a program that is
        known to pass, or dies twice on the same program. Abandoning the iterator ends what runs.
        """
        jobs = (_Job(index, program) for index, program in enumerate(programs))
        taken = given = 0
        again: deque[_Job] = deque()  # lost with their server
        alone: deque[_Job] = deque()  # to be repeated with nothing beside them
        verdicts: dict[int, Verdict] = {}

        def due() -> Iterator[_Job]:
            nonlocal taken
            while again:
                yield again.popleft()
            while taken - given < _AHEAD * len(self._workers) and (job := next(jobs, None)):
                taken += 1
                yield job

        try:
            while True:
                while given in verdicts:
                    given += 1
                    yield verdicts.pop(given - 1)
                idle = [worker for worker in self._workers if worker.job is None]
                if not alone:
                    _start(list(zip(idle, due(), strict=False)))
                elif len(idle) == len(self._workers):
                    _start([(idle[0], alone.popleft())])
                busy = [worker for worker in self._workers if worker.job is not None]
                if not busy:
                    return
                for worker in _await_any(busy):
                    job, answer = worker.finish()
                    if answer is None:
                        job.lost()
                        (alone if job.repeated else again).append(job)
                    elif answer[2] and not job.repeated:
                        job.repeated = True
                        alone.append(job)
                    else:
                        verdicts[job.index] = Verdict(answer[0] == "passed", *answer[:2])
        finally:
            for worker in self._workers:
                if worker.job is not None:
                    worker.stop()


@dataclass
class _Job:
    """One program on its way to a verdict."""

    index: int
    program: Program
    repeated: bool = False
    servers_lost: int = 0

    def lost(self) -> None:
        self.servers_lost += 1
        if self.servers_lost >= _ATTEMPTS:
            raise UserError(
                f"the sandbox's fork server died {self.servers_lost} times on program {self.index} of this run "
                "(killed for memory?). It has no verdict; use fewer workers or lower Limits.memory_bytes."
            )


def _start(pairs: "list[tuple[_Worker, _Job]]") -> None:
    """Starts each worker's server, if it has none, and its program. Raises UserError."""
    try:
        for worker, _ in pairs:
            worker.launch()  # all at once: each takes a tenth of a second to get ready
        for worker, job in pairs:
            worker.start(job)
    except OSError as error:
        for worker, _ in pairs:
            worker.stop()
        raise UserError(f"the sandbox's fork server cannot be started with {sys.executable}: {error}") from None


class _Worker:
    """A fork server and the one program that it runs."""

    def __init__(self, limits: Limits, confinement: str, hash_seed: int) -> None:
        self._settings = (confinement == "full", asdict(limits), import_paths())
        self._patience = server.PATIENCE * limits.wall_seconds + _HANG_SECONDS
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

    def launch(self) -> None:
        """Starts the server if there is none. Raises OSError if that cannot be done."""
        if self._link is not None:
            return
        self._link, theirs = socket.socketpair()
        # A server that hangs in the middle of a message must not hang us: the kernel gives up, with EAGAIN.
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self._link.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(_HANG_SECONDS), 0))
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-c", _COMMAND, str(Path(__file__).resolve().parents[2])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**_ENVIRONMENT, **kept, "PYTHONHASHSEED": str(self._hash_seed)},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us; we then end the servers
            )
        with _noticed_later():
            server.send(self._link.fileno(), (os.getpid(), *self._settings))

    def start(self, job: _Job) -> None:
        """Sends the program to a launched server. Raises UserError if the server does not work, OSError."""
        if not self._ready:
            self._send(_KNOWN)
            result = (self._receive() or (f"{sys.executable} ended at once, or did not answer",))[0]
            if result != "passed":
                self.stop()
                raise UserError(f"the sandbox does not work here: of a program that passes it says {result!r}")
            self._ready = True
        self.job = job
        self.deadline = time.monotonic() + self._patience
        self._send(job.program)

    def _send(self, program: Program) -> None:
        # The tests go in an unnamed file, past the server, which forks the candidates.
        with _unnamed() as file:
            server.send(file.fileno(), (program.tests, program.trusted, program.entry_point, program.report))
            file.seek(0)
            with _noticed_later():
                socket.send_fds(self.link, [b"F"], [file.fileno()])
                server.send(self.link.fileno(), (program.candidate, program.setup))

    def _receive(self) -> server.Answer | None:
        """The server's answer; None if it died, or hangs."""
        with _noticed_later():
            return server.receive(self.link.fileno())
        return None

    def finish(self) -> tuple[_Job, server.Answer | None]:
        """The job and its answer, which has arrived; None, and no server any more, if that died or hung."""
        job, self.job = self.job, None
        assert job is not None
        answer = self._receive() if time.monotonic() < self.deadline else None
        if answer is None:
            self.stop()
        return job, answer

    def stop(self) -> None:
        """Ends the server: it kills what it runs when its link closes; its children die with it anyway."""
        self.job, self._ready = None, False
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _noticed_later() -> contextlib.AbstractContextManager[None]:
    """Passes over the end of a server, or its silence: it is noticed where its answer is missing."""
    return contextlib.suppress(ChannelClosed, CodecError, BlockingIOError, BrokenPipeError, ConnectionResetError)


def _unnamed() -> IO[bytes]:
    return open(os.memfd_create("tests"), "wb", 0) if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def _await_any(busy: list[_Worker]) -> list[_Worker]:
    """The workers whose answer, or end, has come, or whose deadline has passed; waits for one at least."""
    with selectors.DefaultSelector() as selector:
        for worker in busy:
            selector.register(worker.link, selectors.EVENT_READ, worker)
        left = min(worker.deadline for worker in busy) - time.monotonic()
        done = [key.data for key, _ in selector.select(max(left, 0.0))]
        return done or [worker for worker in busy if worker.deadline <= time.monotonic()]


def import_paths() -> list[str]:
    """Where a candidate may import from, and all that it may read besides system libraries: the standard
    library and the installed packages. Not the current directory, not PYTHONPATH, not an editable install."""
    paths = sysconfig.get_paths()
    names = [paths["stdlib"], paths["platstdlib"], os.path.join(paths["platstdlib"], "lib-dynload")]
    names += [path for path in sys.path if path.endswith((".zip", "lib-dynload"))]
    names += [paths["purelib"], paths["platlib"]]
    return list(dict.fromkeys(os.path.realpath(name) for name in names if os.path.exists(name)))
