"""Many programs of every kind on one sandbox, and what of them the machine still holds afterwards."""

import itertools
import os
import random
import time
from pathlib import Path

from programs import LIES, PROGRAMS, TESTS

from phi_jax.sandbox import Limits, Program, Sandbox

# Each takes its whole time, so only few of these are run.
SLOW = ("swallows every exception", "ignores signals", "2 GB of small objects", "endless regular expression",
        "replies from a timer", "endless iterator", "generator that never ends", "closes its channel and stays",
        "endless arithmetic", "huge integer", "hashes that collide", "enormous result", "fork bomb", "thread bomb",
        "kill", "rare sockets", "protocol: endless frame")  # fmt: skip
CRASHES = {
    "abort": "import os\ndef f(x): os.abort()",
    "deep recursion": "def f(x): return f(x)",
    "syntax error": "def f(x) return x",
    "division": "def f(x): return 1 / 0",
}


def mixed(count, slow, good, fill=str):
    """(kind, Program) `count` times, `slow` of them slow ones, in a fixed random order. good: programs that pass."""
    hostile = [Program(fill(source), TESTS, "f") for name, (source, _) in PROGRAMS.items() if name not in SLOW]
    hostile += [Program(source, tests, "f") for name, (source, tests) in LIES.items() if name not in SLOW]
    crashing = [Program(source, TESTS, "f") for source in CRASHES.values()]
    slowly = [Program(fill(PROGRAMS[name][0]), TESTS, "f") for name in SLOW if name in PROGRAMS]
    rest = count - slow
    kinds = {"good": (good, rest - 2 * (rest // 5)), "hostile": (hostile, rest // 5), "crashing": (crashing, rest // 5)}
    chosen = [(kind, p) for kind, (pool, n) in kinds.items() for p in itertools.islice(itertools.cycle(pool), n)]
    chosen += [("slow", p) for p in itertools.islice(itertools.cycle(slowly), slow)]
    random.Random(0).shuffle(chosen)
    return chosen


def strain(chosen, *, warm, limits=None):
    """Runs `chosen` on two workers after the first `warm` of them; returns what passed by kind, and what is held
    "before" and "after": of this process, of the fork servers, and System V's objects."""
    limits = limits or Limits(wall_seconds=5, cpu_seconds=1)
    with Sandbox(limits=limits, workers=2) as sandbox:
        list(sandbox.run(program for _, program in chosen[:warm]))
        servers = [worker._process.pid for worker in sandbox._workers]
        before = held(servers)
        start = time.monotonic()
        verdicts = list(sandbox.run(program for _, program in chosen))
        seconds = time.monotonic() - start
        time.sleep(0.2)
        after = held(servers)
        same = servers == [worker._process.pid for worker in sandbox._workers]
    passed = {kind: [0, 0] for kind, _ in chosen}
    for (kind, _), verdict in zip(chosen, verdicts, strict=True):
        passed[kind][0] += verdict.passed
        passed[kind][1] += 1
    return {
        "passed": passed, "seconds": round(seconds, 1), "same_servers": same, "before": before, "after": after,
        "processes_afterwards": _of_sessions(servers),
    }  # fmt: skip


def held(servers):
    return {
        "children": [pid for pid in _of_sessions(servers) if pid not in servers],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "server_descriptors": [len(os.listdir(f"/proc/{pid}/fd")) for pid in servers],
        "server_kib": [_kib(pid) for pid in servers],
        "system_v": {name: _lines(f"/proc/sysvipc/{name}") for name in ("shm", "sem", "msg")},
        "posix": {path: len(os.listdir(path)) for path in ("/dev/shm", "/dev/mqueue") if os.path.isdir(path)},
    }


def _of_sessions(servers):
    """Processes, zombies too, of the fork servers' sessions."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                session = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[3])
            except OSError:
                continue
            if session in servers:
                found.append(int(entry.name))
    return found


def _kib(pid):
    return next(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line
    )


def _lines(path):
    return len(Path(path).read_text().splitlines()) - 1 if os.path.exists(path) else 0
