"""The fork server: one per worker, started fresh, so that a fork carries no threads, secrets or descriptors.

For each program it forks the candidate, then the tester, waits for the tester's report under the wall clock,
kills what is left and answers. It runs none of the program itself.
"""

import _socket  # socket's many enumerations would only be copied by each fork
import contextlib
import gc
import os
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, cast

from . import candidate, tester, warm_up
from .channel import ChannelClosed, read_frame, write_frame
from .codec import CodecError, Side, decode, encode
from .kernel import libc
from .kernel.confine import Confinement, keep_descriptors

if TYPE_CHECKING:  # dataclasses would bring inspect into this memory, which each fork copies
    from .program import Limits

Answer = tuple[str, Any, bool]
"""Verdict.result, Verdict.value, and whether the program met the wall clock without having had its CPU time."""

TIMED_OUT: Answer = ("timed out", None, False)
MESSAGE_BYTES = 1 << 30  # a source's size: a bound on accidents
PATIENCE = 10
"""The wall clock runs at most so many times its limit, where a busy machine makes a program wait for a core."""
_LEAST_WAIT_SECONDS = 0.01
_LINGER_SECONDS = 1.0  # between the end of the candidate's channel and that of its process
_CPUCLOCK_SCHED = 2  # in a clock's number: the CPU time of a process, from clock_getcpuclockid(3)


def send(fd: int, value: object) -> None:
    write_frame(fd, encode(value, Side(), MESSAGE_BYTES))


def receive(fd: int) -> Any:
    return decode(read_frame(fd, MESSAGE_BYTES), Side())


def main() -> None:
    """Serves requests on descriptor 0 until the parent closes it or dies."""
    link = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    with contextlib.suppress(ChannelClosed):
        try:
            parent, full, limits, paths = receive(link)
            server = Server(link, parent, cast("Limits", types.SimpleNamespace(**limits)), paths, full=full)
        except Exception as error:
            send(link, (f"{type(error).__name__}: {error}", None, False))
            return
        server.serve()


class _Child:
    """A forked process and, once reaped, how it ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        self.cpu_seconds = 0.0

    def kill(self) -> None:
        """Kills it and its process group, and reaps it."""
        if self.status is None:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self.pid, signal.SIGKILL)
            self.reap()

    def reap(self, options: int = 0) -> bool:
        """Waits for its end (os.WNOHANG in `options`: only looks); whether it has ended."""
        if self.status is None:
            pid, status, usage = os.wait4(self.pid, options)
            if pid:
                self.status, self.cpu_seconds = status, usage.ru_utime + usage.ru_stime
        return self.status is not None

    def cpu_seconds_so_far(self) -> float:
        """By the scheduler's own clock; 0 where that cannot be had."""
        with contextlib.suppress(OSError):
            return time.clock_gettime(~self.pid << 3 | _CPUCLOCK_SCHED) if libc.LINUX else 0.0
        return 0.0

    def waited_seconds(self) -> float:
        """For a core, while it could run; 0 where the kernel does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{self.pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
        return 0.0

    def ends_within(self, seconds: float) -> bool:
        """Waits at most so long for its end; whether it has ended."""
        deadline = time.monotonic() + seconds
        while not self.reap(os.WNOHANG) and time.monotonic() <= deadline:
            time.sleep(0.002)
        return self.status is not None

    @property
    def end(self) -> str:
        assert self.status is not None
        code = os.waitstatus_to_exitcode(self.status)
        return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


class Server:
    def __init__(self, link: int, parent: int, limits: "Limits", paths: list[str], *, full: bool) -> None:
        self.link = link
        self.parent = parent
        self.limits = limits
        candidate.preload()  # first: it wants to be the one that imports random
        warm_up.run(limits.output_bytes)
        sys.path[:] = paths
        sys.argv[:] = [""]
        self.confinement = Confinement(limits, paths, full=full)
        if libc.LINUX:
            # Under memory pressure the kernel takes these processes, not the user's training run.
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
            # Orphans of an unconfined candidate come to us, to be killed.
            libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
            # Nobody of the same user may look into this process or its children (ptrace, /proc/PID/mem).
            libc.prctl(libc.PR_SET_DUMPABLE, 0)
        os.umask(0o077)
        for name in [name for name in sys.modules if name.startswith("phi_jax")]:
            del sys.modules[name]  # not to be imported by a program; the code stays alive through its frames
        # Garbage collection would touch, and so copy, every page that parent and child share.
        gc.collect()
        gc.freeze()

    def serve(self) -> NoReturn:
        """Raises ChannelClosed when the parent is gone."""
        link = _socket.socket(fileno=self.link)
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        while True:
            # The link's end shows a parent's death, unless a process that it forked holds the link too.
            while not poll.poll(1000):
                self._check_parent()
            # The tests are in a file that only the tester reads: nothing of them comes into this process, and so into
            # a candidate's.
            mark, received, _, _ = link.recvmsg(1, _socket.CMSG_SPACE(4))
            if not mark or not received:
                raise ChannelClosed
            tests = int.from_bytes(received[0][2][:4], sys.byteorder)
            source, setup = receive(self.link)
            send(self.link, self._run(source, setup, tests))

    def _check_parent(self) -> None:
        if os.getppid() != self.parent:
            raise ChannelClosed

    def _run(self, source: str, setup: str, tests: int) -> Answer:
        """tests: the descriptor of the file that holds the tests. An error here ends this server, and all that it holds
        with it."""
        limits = self.limits
        start = time.monotonic()
        children: list[_Child] = []

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
                _kill_orphans()
        os.close(report)
        return answer

    @contextlib.contextmanager
    def _directory(self) -> Iterator[str]:
        """Where the program runs: an empty directory of its own where it can write (unconfined); else the root
        directory, where a confined program can read and write nothing and nothing has to be cleaned up."""
        if self.confinement.full:
            yield "/"
            return
        import tempfile  # only here: each fork would copy it

        with tempfile.TemporaryDirectory(prefix="phi-jax-sandbox-", ignore_cleanup_errors=True) as directory:
            yield directory

    def _fork(self, descriptors: list[int], directory: str, body: Callable[[], None]) -> _Child:
        """A confined child that runs `body` with `descriptors` as 3, 4, ... and all else closed. They are closed in
        this process."""
        server = os.getpid()
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # both set it: whoever is first
                os.setpgid(pid, pid)
            for descriptor in descriptors:
                os.close(descriptor)
            return _Child(pid)
        try:
            os.setpgid(0, 0)
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
        """The tester's report up to its end (empty if it died); None where a limit was met.

        RLIMIT_CPU alone would not do: the kernel counts clock ticks for it, which on a busy machine run out before
        the process has had its time. Nor would the wall clock alone: waiting for a core is not the program's fault.
        """
        limits = self.limits
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        poll.register(fd, select.POLLIN)
        report, most = b"", 8 + limits.report_bytes + tester.FRAME_BYTES
        while True:
            wall_left = self._wall_left(start, children)
            cpu_left = limits.cpu_seconds - max(child.cpu_seconds_so_far() for child in children)
            left = min(wall_left, cpu_left)
            # A report that is there counts, however late we are ourselves.
            events = dict(poll.poll(max(min(left, 1.0), _LEAST_WAIT_SECONDS) * 1000 if left > 0 else 0))
            if left <= 0 and fd not in events:
                return None
            if self.link in events:
                raise ChannelClosed
            self._check_parent()
            if fd in events:
                piece = os.read(fd, most)
                report += piece
                # A frame: eight bytes of length, then the value.
                if not piece or len(report) >= min(8 + int.from_bytes(report[:8], "big"), most):
                    return report

    def _wall_left(self, start: float, children: list[_Child]) -> float:
        passed, limit = time.monotonic() - start, self.limits.wall_seconds
        if passed >= limit:
            passed = max(passed - sum(child.waited_seconds() for child in children), passed / PATIENCE)
        return limit - passed

    def _answer(self, report: bytes | None, tested: _Child, testing: _Child) -> Answer:
        limits = self.limits
        if report is None:
            tested.kill()
            testing.kill()
            used = tested.cpu_seconds + testing.cpu_seconds
            # Less than most of the CPU time that it could have had: it slept, or the machine was busy.
            return "timed out", None, used < 0.8 * min(limits.wall_seconds, limits.cpu_seconds)
        kind, text, value = None, "", None
        with contextlib.suppress(CodecError, ValueError):
            kind, text, value = decode(report[8:], Side())
        if not report:
            testing.ends_within(_LINGER_SECONDS)
        lingers = kind == tester.GONE and not tested.ends_within(_LINGER_SECONDS)
        testing.kill()
        tested.kill()
        if max(tested.cpu_seconds, testing.cpu_seconds) > limits.cpu_seconds:
            return TIMED_OUT  # it ended before we looked; the limit does not depend on how busy we are
        if kind == tester.PASSED:
            return "passed", value, False
        if kind != tester.FAILED:
            ended, whose = (tested, "candidate's") if kind == tester.GONE else (testing, "tests'")
            # RLIMIT_CPU's SIGKILL, the only one off Linux, looks like any other; the time used tells it.
            if not lingers and ended.end == "signal SIGKILL" and ended.cpu_seconds >= 0.8 * limits.cpu_seconds:
                return TIMED_OUT
            text = "the candidate closed its channel" if lingers else f"the {whose} process ended ({ended.end})"
        return f"failed: {text}", None, False


def _kill_orphans() -> None:
    """Kills and reaps whatever an unconfined candidate left (confined ones cannot fork)."""
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                for name in filter(str.isdecimal, os.listdir("/proc")):
                    with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                        if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                            os.kill(int(name), signal.SIGKILL)
                time.sleep(0.001)
