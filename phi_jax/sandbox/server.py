"""The fork server: one per worker, started fresh, so that a fork carries no threads, secrets or descriptors.

For each program it forks the candidate, then the judge, waits for the judge's report under the wall clock,
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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast

from . import candidate, libc, tester, warm_up
from .channel import ChannelClosed, read_frame, write_frame
from .codec import CodecError, Side, decode, encode
from .confine import Confinement, keep_descriptors
from .pass_fd import read_file, receive_file
from .scratch import Scratch

if TYPE_CHECKING:  # dataclasses would bring inspect into this memory, which each fork copies
    from .program import Limits

PASSED, FAILED, CPU, WALL = "passed", "failed", "cpu", "wall"
"""The kinds of answers: (kind, text, the report's value, CPU seconds of both processes)."""

MESSAGE_BYTES = 1 << 30  # a source's size: a bound on accidents
_PLAIN = Side()
PATIENCE = 10
"""The wall clock runs at most so many times its limit, where a busy machine makes a program wait for a core."""
_LEAST_WAIT_SECONDS = 0.01
_LINGER_SECONDS = 1.0  # between the end of the candidate's channel and that of its process


def send(fd: int, value: object) -> None:
    write_frame(fd, encode(value, _PLAIN, MESSAGE_BYTES))


def receive(fd: int) -> Any:
    return decode(read_frame(fd, MESSAGE_BYTES), _PLAIN)


def main() -> None:
    """Serves requests on descriptor 0 until the parent closes it or dies."""
    link = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    try:
        parent, full, limits, paths = receive(link)
        server = Server(link, parent, cast("Limits", types.SimpleNamespace(**limits)), paths, full=full)
    except ChannelClosed:
        return
    except BaseException as error:
        send(link, ("error", f"{type(error).__name__}: {error}"))
        return
    send(link, ("ready",))
    with contextlib.suppress(ChannelClosed):
        server.serve()
    server.scratch.close()


_CPUCLOCK_SCHED = 2  # in a clock's number: the CPU time of a process, from clock_getcpuclockid(3)


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
            if pid == 0:
                return False
            self.status = status
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return True

    def cpu_seconds_so_far(self) -> float:
        """By the scheduler's own clock; 0 where that cannot be had."""
        if not libc.LINUX:
            return 0.0
        with contextlib.suppress(OSError):
            return time.clock_gettime(~self.pid << 3 | _CPUCLOCK_SCHED)
        return 0.0

    def waited_seconds(self) -> float:
        """For a core, while it could run; 0 where the kernel does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{self.pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
        return 0.0

    def ends_within(self, seconds: float) -> bool:
        """Waits at most so long for its end; whether it has ended."""
        deadline = time.monotonic() + seconds
        while not self.reap(os.WNOHANG):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    @property
    def end(self) -> str:
        assert self.status is not None
        if os.WIFSIGNALED(self.status):
            return f"signal {signal.Signals(os.WTERMSIG(self.status)).name}"
        return f"exit status {os.WEXITSTATUS(self.status)}"


class Server:
    def __init__(self, link: int, parent: int, limits: "Limits", paths: list[str], *, full: bool) -> None:
        self.link = link
        self.parent = parent
        self.limits = limits
        candidate.preload()  # first: it wants to be the one that imports random
        self.scratch = Scratch(wanted=not full)
        warm_up.rehearse(limits.output_bytes)
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
        while True:
            self._await_request()
            # The tests are in a file that only the judge reads: nothing of them comes into this process, and so into
            # a candidate's.
            tests = receive_file(link)
            source, setup = receive(self.link)
            start = time.monotonic()
            ours, theirs = _socket.socketpair()
            report_read = -1
            children: list[_Child] = []
            directory = self.scratch.make()
            try:
                children.append(self._fork([theirs.fileno()], directory, self._candidate(source, setup)))
                theirs.close()
                del source
                report_read, report_write = os.pipe()
                children.append(self._fork([ours.fileno(), report_write, tests], directory, self._judge(setup)))
                os.close(report_write)
                ours.close()
                report = self._await_report(report_read, start, children)
                answer = self._answer(report, *children)
            finally:
                for child in children:
                    child.kill()
                _kill_orphans()
                for end in (ours, theirs):
                    end.close()
                os.close(tests)
                if report_read >= 0:
                    os.close(report_read)
                self.scratch.clear()
            send(self.link, answer)

    def _candidate(self, source: str, setup: str) -> Callable[[], None]:
        return lambda: candidate.run(3, source, setup, self.limits.output_bytes)

    def _judge(self, setup: str) -> Callable[[], None]:
        limits = self.limits
        return lambda: tester.run(3, 4, (*read_file(5, MESSAGE_BYTES), setup), limits.output_bytes, limits.report_bytes)

    def _fork(self, descriptors: list[int], directory: str, body: Callable[[], None]) -> _Child:
        """A confined child that runs `body` with `descriptors` as 3, 4, ... and all else closed."""
        server = os.getpid()
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # both set it: whoever is first
                os.setpgid(pid, pid)
            return _Child(pid)
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)  # its own: the flags of an open file are shared by all that inherit it
            keep_descriptors([*descriptors, *self.confinement.kept])
            self.confinement.moved(3 + len(descriptors))
            os.chdir(directory)
            self.confinement.enter(server)
            body()
        except BaseException:
            os._exit(70)  # EX_SOFTWARE: never back into the server's loop
        os._exit(0)

    def _await_request(self) -> None:
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        # The link's end shows a parent's death, unless a process that it forked holds the link too.
        while not poll.poll(1000):
            if os.getppid() != self.parent:
                raise ChannelClosed

    def _await_report(self, fd: int, start: float, children: list[_Child]) -> bytes | str:
        """The judge's report up to its end (empty if it died); or CPU or WALL, for the limit that was met.

        RLIMIT_CPU alone would not do: the kernel counts clock ticks for it, which on a busy machine run out before
        the process has had its time. Nor would the wall clock alone: waiting for a core is not the program's fault.
        """
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        poll.register(fd, select.POLLIN)
        report, most = b"", 8 + self.limits.report_bytes + tester.FRAME_BYTES
        while True:
            wall_left = self._wall_left(start, children)
            cpu_left = self.limits.cpu_seconds - max(child.cpu_seconds_so_far() for child in children)
            left = min(wall_left, cpu_left)
            # A report that is there counts, however late we are ourselves.
            events = dict(poll.poll(max(min(left, 1.0), _LEAST_WAIT_SECONDS) * 1000 if left > 0 else 0))
            if left <= 0 and fd not in events:
                return WALL if wall_left <= 0 else CPU
            if self.link in events or os.getppid() != self.parent:
                raise ChannelClosed
            if fd in events:
                piece = os.read(fd, most)
                report += piece
                # A frame: eight bytes of length, then the value.
                if not piece or len(report) >= 8 + int.from_bytes(report[:8], "big") or len(report) > most:
                    return report

    def _wall_left(self, start: float, children: list[_Child]) -> float:
        passed, limit = time.monotonic() - start, self.limits.wall_seconds
        if passed >= limit:
            passed = max(passed - sum(child.waited_seconds() for child in children), passed / PATIENCE)
        return limit - passed

    def _answer(self, report: bytes | str, tested: _Child, judging: _Child) -> tuple[str, str, Any, float]:
        kind, text, value = None, "", None
        if report and isinstance(report, bytes):
            with contextlib.suppress(CodecError, ValueError):
                kind, text, value = decode(report[8:], _PLAIN)
        if report == b"":
            judging.ends_within(_LINGER_SECONDS)
        lingers = kind == tester.GONE and not tested.ends_within(_LINGER_SECONDS)
        judging.kill()
        tested.kill()
        cpu = tested.cpu_seconds + judging.cpu_seconds
        if isinstance(report, str):
            return report, "", None, cpu
        if max(tested.cpu_seconds, judging.cpu_seconds) > self.limits.cpu_seconds:
            return CPU, "", None, cpu  # it ended before we looked; the limit does not depend on how busy we are
        if kind == tester.PASSED:
            return PASSED, "", value, cpu
        if kind == tester.FAILED:
            return FAILED, text, None, cpu
        if lingers:
            return FAILED, "the candidate closed its channel", None, cpu
        ended, whose = (tested, "candidate's") if kind == tester.GONE else (judging, "tests'")
        # RLIMIT_CPU's SIGKILL, the only one off Linux, looks like any other; the time used tells it.
        if ended.end == "signal SIGKILL" and ended.cpu_seconds >= 0.8 * self.limits.cpu_seconds:
            return CPU, "", None, cpu
        return FAILED, f"the {whose} process ended ({ended.end})", None, cpu


def _kill_orphans() -> None:
    """Kills and reaps whatever an unconfined candidate left (confined ones cannot fork)."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.001)


def _children() -> list[int]:
    """The process ids of this process's children, from /proc."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found
