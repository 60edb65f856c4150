# ruff: noqa: E501 (programs as they are, one per line)
"""What the sandbox answers: semantics of calls, order, determinism, crashes, and what it says where it cannot."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from phi_jax.errors import UserError
from phi_jax.sandbox import Limits, Program, Sandbox, Verdict, pool, support
from phi_jax.sandbox import support as support_function
from phi_jax.sandbox.codec import CodecError, decode, encode
from phi_jax.sandbox.kernel import landlock as landlock_module

ROOT = Path(__file__).resolve().parent.parent
CONFINEMENT = "none" if support().missing else "full"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(confinement=CONFINEMENT, limits=Limits(wall_seconds=20, cpu_seconds=5)) as sandbox:
        yield sandbox


def verdict(sandbox, candidate, tests, entry_point="f", **rest):
    (found,) = sandbox.run([Program(candidate, tests, entry_point, **rest)])
    return found


PASSING = {
    "plain": ("def f(x): return x + 1", "assert f(1) == 2"),
    "keywords": ("def f(a, *, b=1): return a - b", "assert f(1, b=3) == -2"),
    "None is None": ("def f(): pass", "assert f() is None"),
    "True is True": ("def f(): return True", "assert f() is True and isinstance(f(), bool)"),
    "floats": ("def f(): return [float('nan'), float('inf'), -0.0]", "a, b, c = f()\nassert a != a and b == 1e999 and str(c) == '-0.0'"),
    "big int": ("def f(): return -(10 ** 5000)", "assert f() == -(10 ** 5000)"),
    "complex": ("def f(x): return x * 1j", "assert f(2j) == -2"),
    "surrogates": ("def f(x): return x + '\\ud800'", "assert f('\\udfff') == '\\udfff\\ud800'"),
    "nested": ("def f(x): return {(1, 'a'): [x, {2}, frozenset({3}), b'4', bytearray(b'5')]}",
               "assert f(None) == {(1, 'a'): [None, {2}, frozenset({3}), b'4', bytearray(b'5')]}"),
    "range": ("def f(): return range(3)", "assert f() == range(3) and list(f()) == [0, 1, 2]"),
    "types": ("def f(x): return type(x)", "assert f(1) is int and f('') == str"),
    "collections": ("from collections import *\ndef f(): return Counter('aab'), OrderedDict(a=1), defaultdict(int, b=2), deque([1], 3)",
                    "assert f() == ({'a': 2, 'b': 1}, {'a': 1}, {'b': 2}, __import__('collections').deque([1]))"),
    "decimal and dates": ("def f(d, t): return d / 2, t + t", "from decimal import *\nfrom datetime import *\nassert f(Decimal(3), timedelta(1)) == (Decimal('1.5'), timedelta(2))"),
    "namedtuple": ("from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(x): return P(x, 2)",
                   "assert f(1) == (1, 2) and f(1).a == 1 and f(1)[1] == 2 and (1, 2) in [f(1)] and {(1, 2): 3}[f(1)] == 3"),
    "enum": ("import enum\nclass E(enum.IntEnum):\n    A = 1\ndef f(): return E.A", "assert f() == 1 and f() + 1 == 2 and 3 - f() == 2 and f() < 2"),
    "generator": ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]\ng = f(2)\nassert next(g) == 0 and sum(g) == 1"),
    "map and zip": ("def f(x): return map(str, x), zip(x, x), reversed(x)", "a, b, c = f([1, 2])\nassert list(a) == ['1', '2'] and dict(b) == {1: 1, 2: 2} and list(c) == [2, 1]"),
    "dict views": ("def f(x): return x.keys()", "assert f({1: 2}) == {1} and len(f({1: 2})) == 1"),
    "instances": ("class Node:\n    def __init__(self, v): self.v, self.next = v, None\n    def __len__(self): return 7\n    def twice(self): return 2 * self.v\ndef f(n): return n.next",
                  "a = Node(1)\na.next = Node(2)\nb = f(a)\nassert b.v == 2 and b.twice() == 4 and len(b) == 7 and isinstance(b, Node) and b is a.next and not isinstance(1, Node) and b != 2"),
    "operators of the candidate's class": ("class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return V(self.x + o.x)\n    def __eq__(self, o): return self.x == o.x\n    __hash__ = None\ndef f(a, b): return a + b",
                  "assert f(V(1), V(2)) == V(3) and V(1) + V(1) == V(2) and V(1) != V(2)"),
    "builtin exception": ("def f(x): raise ValueError('bad', x)", "try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == \"('bad', 1)\"\nelse:\n    assert False"),
    "derived exception": ("class E(KeyError): pass\ndef f(): raise E('k')", "try:\n    f()\nexcept LookupError:\n    ok = 1\nassert ok"),
    "unittest": ("def f(x): return 1 / x", "import unittest\nunittest.TestCase().assertRaises(ZeroDivisionError, f, 0)"),
    "argument changed in place": ("def f(x, d):\n    x.append(4); x[0].sort(); d['k'] = 1; d.pop('old')",
                                  "inner = [2, 1]\nx, d = [inner], {'old': 0}\nassert f(x, d) is None\nassert x == [[1, 2], 4] and x[0] is inner and inner == [1, 2] and d == {'k': 1}"),
    "argument of another kind changed": ("def f(s, b, q):\n    s.add(1); b[:] = b'xy'; q.append(2)",
                                         "from collections import deque\ns, b, q = set(), bytearray(b'a'), deque([1])\nf(s, b, q)\nassert s == {1} and b == b'xy' and q == deque([1, 2])"),
    "callback": ("def f(g, x): return sorted(x, key=g), [g(i) for i in x]", "assert f(lambda v: -v, [1, 3, 2]) == ([3, 2, 1], [-1, -3, -2])"),
    "callback that raises": ("def f(g):\n    try: g()\n    except KeyError: return 1", "def g(): raise KeyError('x')\nassert f(g) == 1"),
    "callback that calls back": ("def f(g, n): return g(n - 1) + 1 if n else 0", "assert f(lambda n: f(lambda m: 0, n), 3) == 2"),
    "builtins as arguments": ("def f(t, x): return t(x) if isinstance(t, type) else None", "assert f(str, 1) == '1'"),
    "function returned": ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5"),
    "closure state": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n", "assert [f(), f(), f()] == [1, 2, 3]"),
    "main guard is passed over": ("def f(): return 1\nif __name__ == '__main__':\n    raise SystemExit", "assert f() == 1"),
    "dataclass": ("from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(3)", "assert f().x == 3 and repr(f()) == 'P(x=3)'"),
    "standard library": ("import json, hashlib, math, re, heapq, statistics, string, decimal, itertools, ctypes, asyncio\ndef f(x): return hashlib.md5(x.encode()).hexdigest()[:4]", "assert f('a') == '0cc1'"),
    "asyncio": ("import asyncio\nasync def g(x):\n    await asyncio.sleep(0)\n    return x\ndef f(x): return asyncio.run(g(x))", "assert f(3) == 3"),
    "prints": ("def f():\n    print('x' * 10 ** 6)\n    return 1", "assert f() == 1"),
    "numpy's scalars at every depth": ("import numpy as np\ndef f(x): return [(np.int64(3), {'a': [np.float64(0.5)]}), np.bool_(True), {np.str_('s')}]",
                                       "found = f(np.int64(0))\nassert found == [(3, {'a': [0.5]}), True, {'s'}] and type(found[0][0]) is int and found[1] is True"),
    "tests use the candidate's import": ("import math\ndef f(x): return math.pi", "assert math.isclose(f(0), 3.14159265358979)"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_passes(sandbox, name):
    assert verdict(sandbox, *PASSING[name]) == Verdict(True, "passed")


FAILING = {
    "wrong": ("def f(x): return x", "assert f(1) == 2, 'no'", "failed: no"),
    "no text": ("def f(x): return x", "assert f(1) == 2", "failed: AssertionError"),
    "missing entry point": ("def g(x): return x", "assert f(1) == 2", "failed: name 'f' is not defined"),
    "syntax": ("def f(x) return x", "assert f(1) == 2", "failed: expected ':' (<candidate>, line 1)"),
    "raises": ("def f(x): return {}['k']", "assert f(1) == 2", "failed: 'k'"),
    "own exception": ("class E(Exception): pass\ndef f(x): raise E('t')", "f(1)", "failed: E: t"),
    "raises at import": ("1 / 0", "f(1)", "failed: division by zero"),
    "address": ("def f(x): raise ValueError(object())", "f(1)", "failed: <object object at 0x...>"),
    "long": ("def f(x): raise ValueError('y' * 10000)", "f(1)", "failed: " + "y" * 487 + "..."),
    "just not too long": ("def f(x): raise ValueError('y' * 490)", "f(1)", "failed: " + "y" * 490),
    "lines": ("def f(x): raise ValueError('a\\n\\nb\\ud800')", "f(1)", r"failed: a b\ud800"),
    "object of the tests": ("def f(x): return x", "class A: pass\nf(A())", "failed: the tests pass a A object, which cannot be sent"),
    "set order": ("def f(x): raise ValueError({'a', 'b', 'c', 'd'})", "f(1)", None),
    "tests' SystemExit": ("def f(x): return x", "raise SystemExit(0)", "failed: SystemExit: 0"),
    "tests' syntax": ("def f(x): return x", "assert f(", "failed: '(' was never closed (<tests>, line 1)"),
}  # fmt: skip


def test_failures_say_why_and_always_the_same():
    programs = [Program(candidate, tests, "f") for candidate, tests, _ in FAILING.values()]
    runs = []
    for workers in (1, 2):
        with Sandbox(confinement=CONFINEMENT, workers=workers) as sandbox:
            runs.append(list(sandbox.run(programs)))
    assert runs[0] == runs[1]
    for found, (_, _, expected) in zip(runs[0], FAILING.values(), strict=True):
        assert not found.passed
        assert expected is None or found.result == expected
        assert len(found.result) <= 500


def test_trusted_source_and_entry_point(sandbox):
    trusted = "def helper(x): return x\ndef f(x):\n    '''prompt'''\n"
    cheat = "def helper(x): return 0\ndef f(x): return 0"
    assert not verdict(sandbox, cheat, "assert helper(f(1)) == helper(5)", trusted=trusted).passed
    assert verdict(sandbox, "def f(x): return 5", "assert helper(f(1)) == helper(5)", trusted=trusted).passed


def test_setup_runs_before_or_after_the_candidate(sandbox):
    assert verdict(sandbox, "def f(x): return math.floor(x)", "assert f(1.5) == 1", setup="import math").passed
    node = "class Node:\n    def __init__(self, v): self.v = v\ndef f(n): return n.v"
    assert verdict(sandbox, node, "assert f(root) == 1", None, setup="root = Node(1)\r\n").passed
    assert verdict(sandbox, "def sum(a, b): return a + b", "assert sum(1, 2) == 3", None).passed


def test_order_is_kept(sandbox):
    del sandbox
    # Slow programs first: the others overtake them, and wait.
    programs = [
        Program(f"import time\ndef f(x):\n    time.sleep({0.3 if i % 7 == 0 else 0})\n    return {i}", f"assert f(0) == {i if i % 3 else -1}, {i}", "f")
        for i in range(30)
    ]  # fmt: skip
    with Sandbox(confinement=CONFINEMENT, workers=2) as two:
        found = list(two.run(iter(programs)))
    assert found == [Verdict(True, "passed") if i % 3 else Verdict(False, f"failed: {i}") for i in range(30)]


def test_programs_are_read_lazily_and_the_iterator_can_be_left(sandbox):
    read = []

    def endless():
        while True:
            read.append(1)
            yield Program("def f(): return 1", "assert f() == 1", "f")

    iterator = sandbox.run(endless())
    assert next(iterator).passed
    iterator.close()
    assert len(read) < 100
    assert verdict(sandbox, "def f(): return 1", "assert f() == 1").passed


def test_tester_is_limited_too():
    with Sandbox(confinement=CONFINEMENT, limits=Limits(wall_seconds=10, cpu_seconds=1)) as small:
        loop, memory = small.run(
            [
                Program("def f(): return 1", "while f(): pass", "f"),
                Program("def f(): return 1", "held = [bytearray(1 << 30) for _ in range(4)]", "f"),
            ]
        )
    assert loop == Verdict(False, "timed out")
    assert memory == Verdict(False, "failed: MemoryError")


def children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    pytest.fail("waited in vain")


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def server_of(sandbox):
    """Its process id, once it runs a program of ours."""
    worker = sandbox._workers[0]
    return worker.job and worker.job.index >= 0 and worker._process.poll() is None and worker._process.pid


@needs_proc
@pytest.mark.parametrize("kills", [1, 2])
def test_killed_fork_server(kills):
    """Once: it is started again. Twice on the same program: one clear error, no verdict, no hang."""
    slow = Program("import time\ndef f(x):\n    time.sleep(1)\n    return x", "assert f(1) == 1", "f")

    def kill():
        killed = set()
        while len(killed) < kills:
            pid = wait_for(lambda: server_of(sandbox))
            if pid not in killed:
                wait_for(lambda pid=pid: len(children(pid)) == 2)
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    with Sandbox(confinement=CONFINEMENT) as sandbox:
        thread = threading.Thread(target=kill)
        thread.start()
        if kills == 1:
            assert list(sandbox.run([slow])) == [Verdict(True, "passed")]
        else:
            with pytest.raises(UserError, match="died or hung 2 times on program 0"):
                list(sandbox.run([slow]))
        thread.join()
        assert list(sandbox.run([slow])) == [Verdict(True, "passed")]


@needs_proc
def test_a_fork_server_that_hangs_is_replaced(monkeypatch):
    monkeypatch.setattr(pool, "_HANG_SECONDS", 1.0)
    slow = Program("import time\ndef f(x):\n    time.sleep(1)\n    return x", "assert f(1) == 1", "f")
    with Sandbox(confinement=CONFINEMENT, limits=Limits(wall_seconds=0.5)) as sandbox:
        stopped = threading.Thread(target=lambda: os.kill(wait_for(lambda: server_of(sandbox)), signal.SIGSTOP))
        stopped.start()
        assert [v.result for v in sandbox.run([slow])] == ["timed out"]
        stopped.join()


@needs_proc
@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_what_the_machine_did_to_a_program_is_not_its_verdict(sent):
    """One that got no CPU (here: stopped) until the wall clock ran out, or was killed from outside (as the kernel does
    for memory), runs again, and passes."""
    program = Program("def f(x):\n    import time; time.sleep(0.5)\n    return x", "assert f(1) == 1", "f")
    with Sandbox(confinement=CONFINEMENT, workers=2, limits=Limits(wall_seconds=3)) as sandbox:
        assert verdict(sandbox, "def f(): return 1", "assert f() == 1").passed  # nothing else runs any more

        def stop():
            pid = wait_for(lambda: server_of(sandbox))
            for child in wait_for(lambda: len(children(pid)) == 2 and children(pid)):
                with contextlib.suppress(ProcessLookupError):  # it went with the one before
                    os.kill(child, sent)

        thread = threading.Thread(target=stop)
        thread.start()
        assert list(sandbox.run([program])) == [Verdict(True, "passed")]
        thread.join()


_PARENT = """
import sys
from phi_jax.sandbox import Program, Sandbox
with Sandbox(confinement=sys.argv[1], workers=2) as sandbox:
    list(sandbox.run([Program("def f():\\n    while True: pass", "f()", "f")] * 2))
"""


@needs_proc
def test_killed_parent_leaves_nothing():
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, CONFINEMENT], cwd=ROOT)
    servers = wait_for(lambda: len(children(parent.pid)) == 2 and children(parent.pid))
    forked = wait_for(
        lambda: [p for s in servers for p in children(s)] if all(len(children(s)) == 2 for s in servers) else []
    )
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in [*servers, *forked]), 5)


def test_abandoned_iterator_ends_the_program(sandbox):
    with Sandbox(confinement=CONFINEMENT, workers=2) as two:
        iterator = two.run(
            [Program("def f(): return 1", "f()", "f"), Program("def f():\n    while True: pass", "f()", "f")]
        )
        assert next(iterator).passed
        start = time.monotonic()
        iterator.close()
        assert time.monotonic() - start < 5
        assert verdict(two, "def f(): return 1", "assert f() == 1").passed


def test_unconfined_scratch_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    source = "import os\ndef f():\n    open('x', 'w').write('1')\n    return os.listdir('.')"
    with Sandbox(confinement="none") as unconfined:
        for _ in range(2):
            assert verdict(unconfined, source, "assert f() == ['x']").passed
    assert list(tmp_path.iterdir()) == []


def of_session(number):
    """Processes, without zombies, of this session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z" and int(fields[3]) == number:
                found.append(int(entry.name))
    return found


@needs_proc
def test_unconfined_orphan_is_killed():
    source = (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork(): os._exit(0)\n"
        "        while True: time.sleep(60)\n    return 1"
    )
    with Sandbox(confinement="none") as unconfined:
        found = verdict(unconfined, source, "assert f() == 1")
        assert children(unconfined._workers[0]._process.pid) == []
    # RLIMIT_NPROC stops the fork for everybody but root.
    assert found.passed if os.geteuid() == 0 else not found.passed


def test_what_an_unconfined_candidate_forks_is_killed():
    source = "import os, time\ndef f():\n    child = os.fork()\n    while not child: time.sleep(60)\n    return child"
    with Sandbox(confinement="none") as unconfined:
        found = verdict(unconfined, source, "assert f() > 1")
        server = unconfined._workers[0]._process.pid
        wait_for(lambda: of_session(server) == [server])
    # RLIMIT_NPROC stops the fork for everybody but root.
    assert found.passed if os.geteuid() == 0 else not found.passed


def test_missing_kernel_support(monkeypatch):
    monkeypatch.setattr(landlock_module, "abi", lambda: 0)
    with pytest.raises(UserError) as error:
        Sandbox()
    text = str(error.value)
    assert "Landlock" in text
    assert "--sandbox none" in text
    assert "phi-jax score" in text
    with Sandbox(confinement="none") as unconfined:
        assert verdict(unconfined, "def f(): return 1", "assert f() == 1").passed
    monkeypatch.setattr(support_function.__globals__["sys"], "platform", "darwin")
    assert support().missing


_LIMITED = """
import resource, sys
resource.setrlimit(getattr(resource, sys.argv[2]), (int(sys.argv[3]), int(sys.argv[4])))
from phi_jax.sandbox import Program, Sandbox
with Sandbox(confinement=sys.argv[1], workers=2) as sandbox:
    print([verdict.result for verdict in sandbox.run([Program("def f(): return 1", "assert f() == 1", "f")] * 3)])
"""


@pytest.mark.parametrize(
    ("kind", "soft", "hard", "complaint"),
    [
        ("NOFILE", 30, 4096, "too few open files"),
        ("NOFILE", 40, 4096, ""),
        ("NOFILE", 100, 4096, ""),
        # Under these the known program passes, and others that do elsewhere would not.
        ("NOFILE", 40, 40, "the hard limit RLIMIT_NOFILE is 40 here, and a program may need 64"),
        ("AS", 300 << 20, 300 << 20, "the hard limit RLIMIT_AS is 314572800 here, and a program may need 1073741824"),
        ("CPU", 10, 10, "the hard limit RLIMIT_CPU is 10 here, and a program may need 31"),
    ],
)
def test_limits_of_the_machine_are_enough_or_an_error(kind, soft, hard, complaint):
    command = [sys.executable, "-c", _LIMITED, CONFINEMENT, f"RLIMIT_{kind}", str(soft), str(hard)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if complaint:
        last = done.stderr.splitlines()[-1]
        assert "the sandbox does not work here" in last
        assert complaint in last
        assert done.stdout == ""
    else:
        assert done.stdout == "['passed', 'passed', 'passed']\n", done.stderr


def test_no_open_file_is_left(monkeypatch):
    monkeypatch.setattr(socket, "socketpair", lambda: (_ for _ in ()).throw(OSError(24, "Too many open files")))
    with (
        pytest.raises(UserError, match=r"cannot be started .* Too many open files"),
        Sandbox(confinement="none") as new,
    ):
        verdict(new, "def f(): return 1", "assert f() == 1")


def test_limits_under_which_nothing_passes_are_an_error():
    with (
        pytest.raises(UserError, match="the sandbox does not work here: of a program that passes it says 'failed: "),
        Sandbox(confinement=CONFINEMENT, limits=Limits(memory_bytes=1000)) as small,
    ):
        verdict(small, "def f(): return 1", "assert f() == 1")


def test_refuses_nonsense():
    with pytest.raises(UserError, match='"full" or "none"'):
        Sandbox(confinement="some")
    with pytest.raises(UserError, match="takes 1 to 1024 workers, not 0"):
        Sandbox(workers=0)


@pytest.mark.parametrize("abi", [1, 2, 3, 4, 5, 6])
@pytest.mark.skipif(CONFINEMENT == "none", reason="needs Landlock")
def test_older_landlock(abi, tmp_path):
    """The rights of an older ABI, on this kernel: still reads what it needs and nothing else."""
    (tmp_path / "secret").write_text("x")
    code = (
        "import os, sys\nfrom phi_jax.sandbox.kernel import landlock, libc\nfrom phi_jax.sandbox.pool import import_paths\n"
        "rules = landlock.ruleset(int(sys.argv[1]), import_paths())\nlibc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)\n"
        "landlock.restrict(rules)\nimport json, wave\n"
        "for action in (lambda: open(sys.argv[2]), lambda: open(sys.argv[2], 'w'), lambda: os.unlink(sys.argv[2]),\n"
        "               lambda: open(json.__file__, 'a'), lambda: os.mkdir(sys.argv[2] + '2')):\n"
        "    try: action()\n    except PermissionError: pass\n    else: sys.exit('reached')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(abi), str(tmp_path / "secret")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


VALUES = [
    None, True, False, 0, -1, 255, -256, 2**64, -(10**400), 0.0, 1e308, float("inf"), 1 + 2j, "", "a\0\ud800", b"\xff",
    bytearray(b"1"), [], [[[]]], (), (1,), {}, {1: {2: 3}}, {1, 2}, frozenset({1}), range(1, 9, 2), slice(1, None), int,
    Counter("aab"), OrderedDict(a=1), deque([1, 2], 5), Decimal("1.50"), Fraction(1, 3), date(2026, 1, 2), timedelta(3),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_codec_round_trip(value):
    back = decode(encode(value, 1 << 20))
    assert back == value
    assert type(back) is type(value)


def test_codec_refuses():
    good = encode([1, "a", {2: (3.0, b"x")}, Decimal(1)], 1 << 20)
    for cut in range(len(good)):
        with pytest.raises(CodecError):
            decode(good[:cut])
    for bad in (b"", good + b"N", b"?", b"l\xff\xff\xff\xff", b"S\0\0\0\1l\0\0\0\0", b"s\0\0\0\1\xff", b"C\0\0\0\0",
                b"n\0\0\0\4eval", b"n\0\0\0\5print", b"v\0\0\0\2osN", b"rN", b"l\0\0\0\1" * 10000 + b"N"):  # fmt: skip
        with pytest.raises(CodecError):
            decode(bad)
    for value in (object(), type("L", (list,), {})(), print, lambda: 0):
        with pytest.raises(CodecError):
            encode(value, 1 << 20)
    with pytest.raises(CodecError):
        encode("x" * 100, 50)
    # Every byte of a message changed: an error or another value, never anything else.
    for position in range(len(good)):
        for byte in range(0, 256, 5):
            try:
                decode(good[:position] + bytes([byte]) + good[position + 1 :])
            except CodecError:
                continue


def test_codec_takes_nesting_to_its_limit():
    value = 0
    for _ in range(150):
        value = [value]
    assert decode(encode(value, 1 << 20)) == value
    with pytest.raises(CodecError, match="deeper than 150 levels"):
        encode([value], 1 << 20)
    with pytest.raises(CodecError, match="deeper than 150 levels"):
        decode(b"l\0\0\0\1" * 151 + b"N")


MARK = "planted-in-the-tests-of-another"
SCAN = f"""
def scan():
    mark, found = {MARK[::-1]!r}[::-1].encode(), 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            start, end = (int(x, 16) for x in place.split("-"))
            if rights.startswith("rw") and "[v" not in line:
                memory.seek(start)
                try: found += memory.read(end - start).count(mark)
                except OSError: pass  # unmapped since
    return found
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may read what it may not dump")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is Linux's")
def test_a_candidates_memory_holds_nothing_of_other_programs_tests():
    """Unconfined, so that it can look at all of it; whoever is confined has the same memory."""
    planted = Program("def f():\n    return 1\n", "assert f() == 1\n" + f"# {MARK}\n" * 100, "f")
    scan = Program(SCAN, "assert scan() <= 3", "scan")  # of its own: the bytes, and perhaps texts that were freed
    with Sandbox(confinement="none") as sandbox:
        assert [v.result for v in sandbox.run([planted, planted, scan, scan])] == ["passed"] * 4
