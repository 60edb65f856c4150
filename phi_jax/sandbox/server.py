"""The fork server: one per worker, started fresh, so that a fork carries no threads, secrets or descriptors.

For each program it forks the candidate, then the judge, waits for the judge's report under the wall clock,
kills what is left and answers. It runs none of the program itself.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import candidate, judge, libc
from .channel import ChannelClosed, read_frame, write_frame
from .codec import CodecError, Side, decode, encode
from .confine import Confinement, keep_descriptors
from .program import Limits
from .scratch import Scratch

PASSED, FAILED, CPU, WALL = "passed", "failed", "cpu", "wall"
"""The kinds of answers: (kind, text, CPU seconds of both processes)."""

MESSAGE_BYTES = 1 << 30  # a source's size: a bound on accidents
_PLAIN = Side()
_REPORT_BYTES = 1 << 16
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
        server = Server(link, parent, Limits(*limits), paths, full=full)
    except ChannelClosed:
        return
    except BaseException as error:
        send(link, ("error", f"{type(error).__name__}: {error}"))
        return
    send(link, ("ready",))
    with contextlib.suppress(ChannelClosed):
        server.serve()
    server.scratch.close()


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
    def __init__(self, link: int, parent: int, limits: Limits, paths: list[str], *, full: bool) -> None:
        self.link = link
        self.parent = parent
        self.limits = limits
        self.scratch = Scratch(wanted=not full)
        candidate.preload()
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
        # Garbage collection would touch, and so copy, every page that parent and child share.
        gc.collect()
        gc.freeze()

    def serve(self) -> NoReturn:
        """Raises ChannelClosed when the parent is gone."""
        while True:
            # The candidate's part comes first and alone: its process holds nothing of the tests.
            self._await_request()
            source, setup = receive(self.link)
            start = time.monotonic()
            ours, theirs = socket.socketpair()
            report_read = -1
            children: list[_Child] = []
            directory = self.scratch.make()
            try:
                children.append(self._fork([theirs.fileno()], directory, self._candidate(source, setup)))
                theirs.close()
                del source
                tests, trusted, entry_point = receive(self.link)
                report_read, report_write = os.pipe()
                request = (tests, trusted, entry_point, setup)
                children.append(self._fork([ours.fileno(), report_write], directory, self._judge(request)))
                os.close(report_write)
                ours.close()
                del tests, trusted, request
                report = self._await_report(report_read, start + self.limits.wall_seconds)
                answer = self._answer(report, *children)
            finally:
                for child in children:
                    child.kill()
                _kill_orphans()
                for end in (ours, theirs):
                    end.close()
                if report_read >= 0:
                    os.close(report_read)
                self.scratch.clear()
            send(self.link, answer)

    def _candidate(self, source: str, setup: str) -> Callable[[], None]:
        return lambda: candidate.run(3, source, setup, self.limits.output_bytes)

    def _judge(self, request: tuple[str, str, str | None, str]) -> Callable[[], None]:
        return lambda: judge.run(3, 4, request, self.limits.output_bytes)

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
            kept = [null, null, null, *descriptors]
            keep_descriptors([*kept, *self.confinement.kept])
            self.confinement.moved(len(kept))
            os.chdir(directory)
            self.confinement.enter(server)
            for name in [name for name in sys.modules if name.startswith("phi_jax")]:
                del sys.modules[name]  # not to be imported by accident; the code stays alive through its frames
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

    def _await_report(self, fd: int, deadline: float) -> bytes | None:
        """The judge's report up to its end (empty if it died); None when the wall clock ran out."""
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        poll.register(fd, select.POLLIN)
        report = b""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            events = dict(poll.poll(min(left, 1.0) * 1000 + 1))
            if self.link in events or os.getppid() != self.parent:
                raise ChannelClosed
            if fd in events:
                piece = os.read(fd, _REPORT_BYTES)
                report += piece
                if not piece or len(report) > _REPORT_BYTES:
                    return report

    def _answer(self, report: bytes | None, tested: _Child, judging: _Child) -> tuple[str, str, float]:
        kind, text = None, ""
        if report:
            with contextlib.suppress(CodecError, ValueError):
                # A frame: eight bytes of length, then the value.
                kind, text = decode(report[8:], _PLAIN)
        if report == b"":
            judging.ends_within(_LINGER_SECONDS)
        lingers = kind == judge.GONE and not tested.ends_within(_LINGER_SECONDS)
        judging.kill()
        tested.kill()
        cpu = tested.cpu_seconds + judging.cpu_seconds
        if report is None:
            return WALL, "", cpu
        if kind == judge.PASSED:
            return PASSED, "", cpu
        if kind == judge.FAILED:
            return FAILED, text, cpu
        if lingers:
            return FAILED, "the candidate closed its channel", cpu
        ended, whose = (tested, "candidate's") if kind == judge.GONE else (judging, "tests'")
        # RLIMIT_CPU's SIGKILL looks like any other; the time used tells it, which the kernel counts for the
        # limit and reports to us with different clocks.
        if ended.end == "signal SIGKILL" and ended.cpu_seconds >= 0.8 * self.limits.cpu_seconds:
            return CPU, "", cpu
        return FAILED, f"the {whose} process ended ({ended.end})", cpu


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
