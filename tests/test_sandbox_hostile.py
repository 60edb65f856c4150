"""Hostile candidates: none passes, none reaches outside, none leaves a process or a file."""

import os
import re
import socket
import sys
import time
import uuid
from pathlib import Path

import pytest

from phi_jax.sandbox import Limits, Program, Sandbox, support

sys.path.insert(0, str(Path(__file__).parent / "hostile"))
from leavings import mixed, strain
from programs import LIES, PROGRAMS, TESTS

ROOT = Path(__file__).resolve().parent.parent
LIMITS = Limits(wall_seconds=20, cpu_seconds=2)

pytestmark = pytest.mark.skipif(bool(support().missing), reason=f"needs Landlock and seccomp: {support().description}")


def processes():
    """{pid: (parent, session, command line)} of everything that runs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                found[int(entry.name)] = (int(fields[1]), int(fields[3]), (entry / "cmdline").read_bytes())
            except OSError:
                continue
    return found


def left_over(servers):
    """Processes of these fork servers' sessions, or forked from a server (they share its command line) and
    orphaned."""
    return {
        pid: entry
        for pid, entry in processes().items()
        if entry[1] in servers or (b"phi_jax.sandbox.server" in entry[2] and entry[0] == 1)
    }


class Outside:
    """What the candidates try to reach, and what they may leave."""

    def __init__(self, directory):
        self.token = f"token-{uuid.uuid4().hex}"
        self.directory = directory
        (directory / "secret").write_text(self.token)
        self.sockets = [self._socket(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))]
        self.port = self.sockets[0].getsockname()[1]
        self.sockets += [
            self._socket(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", self.port)),
            self._socket(socket.AF_UNIX, socket.SOCK_STREAM, str(directory / "socket")),
            self._socket(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.token}"),
            self._socket(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{self.token}-datagram"),
        ]
        self.before = self.state()

    @staticmethod
    def _socket(family, kind, address):
        listener = socket.socket(family, kind)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listener.setblocking(False)
        return listener

    def state(self):
        """Every file of the directory with its content and attributes."""
        return {
            str(path.relative_to(self.directory)): (
                path.read_bytes() if path.is_file() else None, path.stat().st_mode, path.stat().st_mtime_ns,
            )
            for path in [self.directory, *self.directory.rglob("*")]
        }  # fmt: skip

    def received(self):
        """How many sockets something was sent to."""
        count = 0
        for listener in self.sockets:
            try:
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()
                else:
                    listener.recv(10)
                count += 1
            except BlockingIOError:
                pass
        return count

    def files(self):
        """Files by the run's token in the places where a program might write."""
        places = [
            Path(p) for p in ("/tmp", "/var/tmp", "/dev/shm", "/root", "/", os.getcwd(), os.path.dirname(os.__file__))
        ]
        return [p / name for p in [*places, ROOT, Path.home()] for name in _names(p) if self.token in name]

    def fill(self, source):
        for name, value in {
            "TOKEN": self.token, "OUTSIDE": self.directory, "REPO": ROOT,
            "PARENT": os.getpid(), "PORT": self.port,
        }.items():  # fmt: skip
            source = source.replace(name, str(value))
        return source


def _names(place):
    try:
        return os.listdir(place)
    except OSError:
        return []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(verdicts by name, what is left): all programs on one sandbox, with a key in the environment."""
    outside = Outside(tmp_path_factory.mktemp("outside"))
    stdlib = Path(os.__file__).stat().st_mtime_ns, Path(os.__file__).stat().st_size
    os.environ["PLANTED_API_KEY"] = outside.token
    programs = {name: Program(outside.fill(source), TESTS, "f") for name, (source, _) in PROGRAMS.items()}
    programs |= {name: Program(source, tests, "f") for name, (source, tests) in LIES.items()}
    try:
        with Sandbox(limits=LIMITS, workers=2) as sandbox:
            verdicts = dict(zip(programs, sandbox.run(programs.values()), strict=True))
            servers = {worker._process.pid for worker in sandbox._workers}
            time.sleep(0.2)
            children = [pid for pid, entry in processes().items() if entry[1] in servers and pid not in servers]
    finally:
        del os.environ["PLANTED_API_KEY"]
    left = {
        "children while the servers idle": children,
        "processes afterwards": left_over(servers),
        "messages": outside.received(),
        "files": outside.files(),
        "changes": {} if outside.state() == outside.before else outside.state(),
        "standard library": (Path(os.__file__).stat().st_mtime_ns, Path(os.__file__).stat().st_size) != stdlib,
    }
    return verdicts, left


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program(run, name):
    verdict = run[0][name]
    assert not verdict.passed
    assert re.fullmatch(PROGRAMS[name][1], verdict.result), verdict.result
    assert len(verdict.result) <= 500


@pytest.mark.parametrize("name", LIES)
def test_lying_value(run, name):
    assert not run[0][name].passed, run[0][name]


@pytest.mark.parametrize(
    "what",
    [
        "children while the servers idle",
        "processes afterwards",
        "messages",
        "files",
        "changes",
        "standard library",
    ],
)
def test_nothing_is_left(run, what):
    assert not run[1][what]


def test_attempts_succeed_without_confinement(tmp_path):
    """The hostile programs are real: unconfined, the same attempts get through. (Harmless ones only.)"""
    outside = Outside(tmp_path)
    names = ["read files", "tcp", "unix sockets"]
    with Sandbox(limits=LIMITS, confinement="none") as sandbox:
        verdicts = list(sandbox.run(Program(outside.fill(PROGRAMS[n][0]), TESTS, "f") for n in names))
    assert all(verdict.result.startswith("failed: reached: ") for verdict in verdicts), verdicts


def test_sleeping_forever():
    """On the wall clock, although it uses no CPU; and again, alone, before that counts."""
    start = time.monotonic()
    with Sandbox(limits=Limits(wall_seconds=1.0)) as sandbox:
        source = "import time\ndef f(x):\n    while True: time.sleep(60)"
        (verdict,) = sandbox.run([Program(source, TESTS, "f")])
    assert (verdict.passed, verdict.result) == (False, "timed out")
    assert time.monotonic() - start >= 2.0


def test_hundreds_of_programs_leave_nothing(tmp_path, monkeypatch):
    """A sample of tests/acceptance/test_sandbox_stress.py."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    good = [Program("def f(x): return 'right'", TESTS, "f")]
    found = strain(mixed(250, 2, good, Outside(tmp_path).fill), warm=100)
    assert found["passed"]["good"][0] == found["passed"]["good"][1] > 100
    assert found["passed"]["hostile"][0] == found["passed"]["crashing"][0] == found["passed"]["slow"][0] == 0
    assert found["same_servers"]
    before, after = found["before"], found["after"]
    assert after | {"server_kib": 0} == before | {"server_kib": 0}
    assert after["children"] == found["processes_afterwards"] == []
    assert max(after["server_kib"]) <= max(before["server_kib"]) + 1024
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret", "socket"]


def test_flags_of_the_standard_streams_are_each_programs_own():
    # The flags belong to the open file, not to the descriptor: inherited ones would carry news to the next program.
    leave = "import fcntl, os\nfor fd in (0, 1, 2): fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)\n"
    look = "import fcntl\nfound = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (0, 1, 2)]\n"
    program = look + leave + "def f(): return found[0] & (os.O_NONBLOCK | os.O_APPEND)\n"
    with Sandbox(workers=1) as sandbox:
        verdicts = list(sandbox.run([Program(program, "assert f() == 0", "f")] * 2))
    assert [verdict.result for verdict in verdicts] == ["passed", "passed"]
