"""The fork server: one per worker, started fresh, so that a fork carries no threads, secrets or descriptors.

For each program it forks the candidate, then the tester, waits for the tester's report under the wall clock,
kills what is left and answers. It runs none of the program itself.
"""

import _socket  # socket's many enumerations would only be copied by each fork
import contextlib
import gc
import importlib
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import candidate, tester
from .channel import ChannelClosed, receive, send
from .codec import CodecError, decode
from .kernel import libc
from .kernel.confine import Confinement, keep_descriptors
from .program import Limits

Answer = tuple[str, Any, bool]
"""Verdict.result, Verdict.value, and whether it may be the machine's fault: the program met the wall clock without
having had its CPU time, or was killed from outside."""

PATIENCE = 10  # the wall clock runs at most so many times its limit, where a program waits for a core
# What completions import most: a forked child has it for free.
_PRELOADED = (
    "bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools", "math",
    "operator", "random", "re", "string", "typing",
)  # fmt: skip
_LINK = 0  # the descriptor of the socket to the pool; in a child it is /dev/null
_LEAST_WAIT_SECONDS = 0.01
_LINGER_SECONDS = 1.0  # between the end of the candidate's channel and that of its process
_CPUCLOCK_SCHED = 2  # in a clock's number: the CPU time of a process, from clock_getcpuclockid(3)


def main() -> None:
    """Serves requests on descriptor 0 until the other end closes."""
    with contextlib.suppress(ChannelClosed):
        try:
            full, limits, paths = receive(_LINK)
            server = Server(Limits(*limits), paths, full=full)
        except Exception as error:
            send(_LINK, (f"{type(error).__name__}: {error}", None, False))
            return
        server.serve()


class _Child:
    """A forked process and, once reaped, how it ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.end = ""
        self.cpu_seconds = 0.0

    def kill(self) -> None:
        """Kills it, unless it was reaped, and reaps it."""
        if not self.end:
            os.kill(self.pid, signal.SIGKILL)
            self._reap(0)

    def _reap(self, options: int) -> None:
        pid, status, usage = os.wait4(self.pid, options)
        if pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it forked: only unconfined code can
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
            code = os.waitstatus_to_exitcode(status)
            self.end = f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def ends_within(self, seconds: float) -> bool:
        """Waits at most so long for its end; whether it has ended."""
        deadline = time.monotonic() + seconds
        while not self.end and time.monotonic() <= deadline:
            self._reap(os.WNOHANG)
            time.sleep(0.002)
        return bool(self.end)

    def cpu_seconds_so_far(self) -> float:
        """By the scheduler's own clock; 0 where that cannot be had."""
        with contextlib.suppress(OSError):
            return time.clock_gettime(~self.pid << 3 | _CPUCLOCK_SCHED)
        return 0.0

    def waited_seconds(self) -> float:
        """For a core, while it could run; 0 where the kernel does not say."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
        return 0.0


class Server:
    """Runs one program after the other. paths: what its programs may import from."""

    def __init__(self, limits: Limits, paths: list[str], *, full: bool) -> None:
        self.limits = limits
        for name in _PRELOADED:
            importlib.import_module(name)
        sys.path[:] = paths
        sys.argv[:] = [""]
        self.confinement = Confinement(limits, paths, full=full)
        if libc.LINUX:
            # Under memory pressure the kernel takes these processes, not the user's training run.
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
            libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
            # Nobody of the same user may look into this process or its children (ptrace, /proc/PID/mem).
            libc.prctl(libc.PR_SET_DUMPABLE, 0)
        for name in [name for name in sys.modules if name.startswith("phi_jax")]:
            del sys.modules[name]  # not to be imported by a program; the code stays alive through its frames
        # Garbage collection would touch, and so copy, every page that parent and child share.
        gc.collect()
        gc.freeze()

    def serve(self) -> NoReturn:
        """Raises ChannelClosed when the other end is gone."""
        link = _socket.socket(fileno=_LINK)
        while True:
            # The tests are in a file that only the tester reads: nothing of them comes into this process, and so into
            # a candidate's.
            mark, received, _, _ = link.recvmsg(1, _socket.CMSG_SPACE(4))
            if not mark or not received:
                raise ChannelClosed
            tests = int.from_bytes(received[0][2][:4], sys.byteorder)
            source, setup = receive(_LINK)
            send(_LINK, self._run(source, setup, tests))

    def _run(self, source: str, setup: str, tests: int) -> Answer:
        """tests: the descriptor of the file that holds the tests. An error here ends this server, and all that it holds
        with it."""
        limits = self.limits
        start = time.monotonic()
        children = []

        def candidates() -> None:
            candidate.run(3, source, setup, limits.output_bytes)

        def testers() -> None:
            tester.run(3, 4, receive(5), setup, output=limits.output_bytes, report=limits.report_bytes)

        with self._directory() as directory:
            try:
                ours, theirs = (end.detach() for end in _socket.socketpair())
                children.append(self._fork([theirs], directory, candidates))
                report, reporting = os.pipe()  # which the candidate's process never had
                children.append(self._fork([ours, reporting, tests], directory, testers))
                answer = self._answer(self._await_report(report, start, children), *children)
            finally:
                for child in children:
                    child.kill()
                if libc.LINUX and not self.confinement.full:
                    _kill_orphans()
        os.close(report)
        return answer

    def _directory(self) -> contextlib.AbstractContextManager[str]:
        """Where the program runs: an empty directory of its own where it can write (unconfined); else the root
        directory, where a confined program can read and write nothing and nothing has to be cleaned up."""
        if self.confinement.full:
            return contextlib.nullcontext("/")
        import tempfile  # only here: each fork would copy it

        return tempfile.TemporaryDirectory(prefix="phi-jax-sandbox-", ignore_cleanup_errors=True)

    def _fork(self, descriptors: list[int], directory: str, body: Callable[[], None]) -> _Child:
        """A confined child that runs `body` with `descriptors` as 3, 4, ... and all else closed. They are closed in
        this process."""
        server = os.getpid()
        pid = os.fork()
        if pid:
            for descriptor in descriptors:
                os.close(descriptor)
            return _Child(pid)
        try:
            os.setpgid(0, 0)
            random.seed(0)  # else another one for each process: a score shall not depend on luck
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)  # its own: the flags of an open file are shared by all that inherit it
            keep_descriptors([*descriptors, *self.confinement.rules])
            os.chdir(directory)
            self.confinement.enter(server, 3 + len(descriptors))
            body()
        except BaseException:
            os._exit(70)  # EX_SOFTWARE: never back into the server's loop
        os._exit(0)

    def _await_report(self, fd: int, start: float, children: list[_Child]) -> bytes | None:
        """The tester's report, up to the end of its process (empty if it made none); None where a limit was met.

        RLIMIT_CPU alone would not do: the kernel counts clock ticks for it, which on a busy machine run out before
        the process has had its time. Nor would the wall clock alone: waiting for a core is not the program's fault.
        """
        limits = self.limits
        report = b""
        while True:
            passed = time.monotonic() - start
            if passed >= limits.wall_seconds:
                passed = max(passed - sum(child.waited_seconds() for child in children), passed / PATIENCE)
            used = max(child.cpu_seconds_so_far() for child in children)
            left = min(limits.wall_seconds - passed, limits.cpu_seconds - used)
            # A report that is there counts, however late we are ourselves.
            wait_seconds = max(left, _LEAST_WAIT_SECONDS) if left > 0 else 0
            ready, _, _ = select.select([_LINK, fd], [], [], wait_seconds)
            if _LINK in ready:
                raise ChannelClosed
            if fd in ready:
                piece = os.read(fd, 1 << 20)
                if not piece:
                    return report
                report += piece
            elif left <= 0:
                return None

    def _answer(self, report: bytes | None, tested: _Child, testing: _Child) -> Answer:
        limits = self.limits
        if report is None:
            tested.kill()
            testing.kill()
            used = tested.cpu_seconds + testing.cpu_seconds
            # Less than most of the CPU time that it could have had: it slept, or the machine was busy.
            return "timed out", None, used < 0.8 * min(limits.wall_seconds, limits.cpu_seconds)
        kind, text, value = None, "", None
        with contextlib.suppress(CodecError):
            kind, text, value = decode(report)
        ended, whose = (tested, "candidate's") if kind == tester.GONE else (testing, "tests'")
        lingers = kind not in (tester.PASSED, tester.FAILED) and not ended.ends_within(_LINGER_SECONDS)
        testing.kill()
        tested.kill()
        if max(tested.cpu_seconds, testing.cpu_seconds) > limits.cpu_seconds:
            return "timed out", None, False  # it ended before we looked; the limit does not depend on how busy we are
        if kind == tester.PASSED:
            return "passed", value, False
        if kind == tester.FAILED:
            return f"failed: {text}", None, False
        if lingers:
            return "failed: the candidate closed its channel", None, False
        # Killed, and not by us: perhaps by the kernel, for the memory that others took.
        return f"failed: the {whose} process ended ({ended.end})", None, ended.end == "signal SIGKILL"


def _kill_orphans() -> None:
    """Kills and reaps whatever an unconfined candidate left, which is ours to reap; confined ones cannot fork."""
    with contextlib.suppress(ChildProcessError):  # there is none any more
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                for pid in file.read().split():
                    os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)
