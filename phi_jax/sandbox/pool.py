"""Sandbox: the caller's side. Workers, order, repeats and restarts."""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from phi_jax.errors import UserError

from .channel import ChannelClosed, receive, send
from .kernel.support import require_full
from .program import Limits, Program, Verdict
from .server import PATIENCE, Answer

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
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "TMPDIR")

_HANG_SECONDS = 60.0  # without an answer that is due, on a loaded machine, before a server counts as hung
_MOST_WORKERS = 1024  # each is a process, and two more while it runs a program
_ATTEMPTS = 2  # servers lost on one program before that is an error

# Passes over the end of a server: it is noticed where its answer is missing.
_noticed_later = contextlib.suppress(ChannelClosed, ConnectionError)

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
        if not 1 <= workers <= _MOST_WORKERS:
            raise UserError(f"the sandbox takes 1 to {_MOST_WORKERS} workers, not {workers}")
        if confinement == "full":
            require_full()
        self._workers = [_Worker(limits or Limits(), confinement, hash_seed) for _ in range(workers)]

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the fork servers and whatever they run. The sandbox may be used again; they start anew."""
        for worker in self._workers:
            worker.stop()

    def run(self, programs: Iterable[Program]) -> Iterator[Verdict]:
        """The programs' verdicts, in order, each as soon as it and all before it are there.

        `programs` is read as needed. A program that met the wall clock without having had its CPU time, or whose
        process was killed from outside, is run once more with nothing beside it before its verdict counts, so that a
        loaded machine does not turn a pass into a failure. Raises UserError when a fork server cannot be started, does
        not pass a program that is known to pass, or dies or hangs twice on the same program. Abandoning the iterator
        ends what runs.
        """
        jobs = (_Job(index, program) for index, program in enumerate(programs))
        given = 0
        due: deque[_Job] = deque()
        alone: deque[_Job] = deque()  # to be repeated with nothing beside them
        verdicts: dict[int, Verdict] = {}
        try:
            while True:
                while given in verdicts:
                    given += 1
                    yield verdicts.pop(given - 1)
                idle = [worker for worker in self._workers if worker.job is None]
                if not alone:
                    due.extend(itertools.islice(jobs, max(len(idle) - len(due), 0)))
                    for worker in idle[: len(due)]:
                        worker.start(due)
                elif len(idle) == len(self._workers):
                    idle[0].start(alone)
                busy = [worker for worker in self._workers if worker.job is not None]
                if not busy:
                    return
                ready = connection.wait([worker.link for worker in busy], max(0, min(w.due_in() for w in busy)))
                for worker in [worker for worker in busy if worker.link in ready or worker.due_in() <= 0]:
                    job, answer = worker.finish(hangs=worker.link not in ready)
                    if job.program is _KNOWN:
                        continue
                    if answer is None:
                        job.lost()
                        (alone if job.repeated else due).append(job)
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
                f"the sandbox's fork server died or hung {self.servers_lost} times on program {self.index} of this run "
                "(killed for memory?). It has no verdict; use fewer workers, or a machine with more memory"
            )


class _Worker:
    """A fork server and the one program that it runs."""

    def __init__(self, limits: Limits, confinement: str, hash_seed: int) -> None:
        self._settings = (confinement == "full", tuple(limits), import_paths())
        self._patience = PATIENCE * limits.wall_seconds + _HANG_SECONDS
        self._hash_seed = hash_seed
        self._process: subprocess.Popen[bytes] | None = None
        self.link: socket.socket
        self.job: _Job | None = None
        self._begun = 0.0

    def due_in(self) -> float:
        """Seconds in which the server of a busy worker has to answer, before it counts as hung."""
        return self._begun + self._patience - time.monotonic()

    def start(self, jobs: deque[_Job]) -> None:
        """Runs the next of the jobs or, on a server that it starts for that, the known program. Raises UserError."""
        try:
            if self._process is None:
                self._launch()
                self.job = _Job(-1, _KNOWN)
            else:
                self.job = jobs.popleft()
            self._begun = time.monotonic()
            self._send(self.job.program)
        except OSError as error:
            self.stop()
            raise UserError(
                f"the sandbox's fork server cannot be started with {sys.executable}, or a program cannot be given to "
                f"it: {error} (open files or processes: see `ulimit -a`; space: TMPDIR)"
            ) from None

    def _launch(self) -> None:
        self.link, theirs = socket.socketpair()
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
        with _noticed_later:
            send(self.link.fileno(), self._settings)

    def _send(self, program: Program) -> None:
        # The tests go in an unnamed file, past the server, which forks the candidates.
        with tempfile.TemporaryFile(buffering=0) as file, _noticed_later:
            send(file.fileno(), (program.tests, program.trusted, program.entry_point, program.report))
            file.seek(0)
            socket.send_fds(self.link, [b"F"], [file.fileno()])
            send(self.link.fileno(), (program.candidate, program.setup))

    def finish(self, *, hangs: bool) -> tuple[_Job, Answer | None]:
        """The job and its answer, which has arrived; None, and no server any more, if that died or hangs. Raises
        UserError if the known program did not pass."""
        job, self.job = self.job, None
        assert job is not None
        answer: Answer | None = None
        with _noticed_later:
            answer = None if hangs else receive(self.link.fileno())
        result = answer[0] if answer else f"{sys.executable} ended at once, or did not answer"
        if answer is None:
            self.stop()
        if job.program is _KNOWN and result != "passed":
            raise UserError(
                f"the sandbox does not work here: of a program that passes it says {result!r} (too little memory, "
                "too few open files or processes, no /proc? see `ulimit -a`)"
            )
        return job, answer

    def stop(self) -> None:
        """Ends the server: it kills what it runs when its link closes; its children die with it anyway."""
        self.job = None
        if self._process is not None:
            self.link.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process.kill()
            self._process.wait()
            self._process = None


def import_paths() -> list[str]:
    """Where a candidate may import from, and all that it may read besides system libraries: the standard
    library and the installed packages. Not the current directory, not PYTHONPATH, not an editable install."""
    paths = sysconfig.get_paths()
    built = [path for path in sys.path if path.endswith("lib-dynload")]  # of the standard library, compiled
    names = [paths["stdlib"], *built, paths["purelib"], paths["platlib"]]
    return [os.path.realpath(name) for name in names]
