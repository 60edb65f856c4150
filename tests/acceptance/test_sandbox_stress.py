"""10,000 programs leave nothing, and full load changes no verdict. Writes sandbox_stress.json.

pytest tests/acceptance/test_sandbox_stress.py
"""

import datetime
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_sandbox_hostile import Outside

from phi_jax.sandbox import Limits, Program, Sandbox, support
from phi_jax.synthesis.llm.mutations import mutants

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "hostile"))
from leavings import mixed, strain

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

PROGRAMS, SLOW = 10_000, 20
SLOWEST = "MBPP/123"  # its reference takes 2 to 10 CPU seconds
RESULT = Path(__file__).with_name("sandbox_stress.json")


def note(name, found):
    """Puts `found` into the result's file, with when and where."""
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result[name] = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "confinement": support().description,
        **found,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def humaneval(directory):
    with gzip.open(directory / "eval" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def program(problem, code):
    tests = f"{problem['test']}\ncheck({problem['entry_point']})"
    return Program(code, tests, problem["entry_point"], trusted=problem["prompt"])


def test_ten_thousand_programs_leave_nothing(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    outside = Outside(tmp_path)
    good = [
        program(p, p["prompt"] + p["canonical_solution"])
        for p in humaneval(shared_data)
        if p["task_id"] not in ("HumanEval/75", "HumanEval/147")  # tenths of a second each
    ]
    found = strain(mixed(PROGRAMS, SLOW, good, outside.fill), warm=500)
    found["files"] = sorted(p.name for p in tmp_path.iterdir() if p.name not in ("secret", "socket"))
    found["messages"], found["files_elsewhere"] = outside.received(), [str(p) for p in outside.files()]
    note("leavings", {"programs": PROGRAMS, **found})
    passed, before, after = found["passed"], found["before"], found["after"]
    assert passed["good"][0] == passed["good"][1]
    assert passed["hostile"][0] == passed["crashing"][0] == passed["slow"][0] == 0
    assert found["same_servers"]
    assert after | {"server_kib": 0} == before | {"server_kib": 0}
    assert after["children"] == found["processes_afterwards"] == []
    assert max(after["server_kib"]) <= max(before["server_kib"]) + 1024
    assert (found["files"], found["files_elsewhere"], found["messages"]) == ([], [], 0)


BURN = "while True: pass"
COPY = "here, there = bytearray(64 << 20), bytearray(64 << 20)\nwhile True: here[:] = there"


def test_full_load_changes_no_verdict(shared_data):
    problems = humaneval(shared_data)
    references = {p["task_id"]: program(p, p["prompt"] + p["canonical_solution"]) for p in problems}
    for line in (shared_data / "eval" / "mbpp.jsonl").read_text().splitlines():
        p = json.loads(line)
        if 11 <= p["task_id"] <= 510:
            tests = "\n".join(p["test_list"])
            references[f"MBPP/{p['task_id']}"] = Program(p["code"], tests, None, setup=p["test_setup_code"])
    assert SLOWEST in references
    changed = {
        f"{p['task_id']}, line {m.line}, {m.kind}, {n}": program(p, m.code)
        for p in problems
        for n, m in enumerate(mutants(p["prompt"] + p["canonical_solution"], 2))
    }
    # References under the default limits; mutants, of which some never end, under a shorter one.
    groups = {"references": (references, Limits()), "mutants": (changed, Limits(wall_seconds=4, cpu_seconds=2))}

    def judge(workers):
        start, found = time.monotonic(), {}
        for chosen, limits in groups.values():
            with Sandbox(workers=workers, limits=limits) as sandbox:
                found |= dict(zip(chosen, sandbox.run(chosen.values()), strict=True))
        return found, round(time.monotonic() - start, 1)

    cores = os.cpu_count() or 1
    quiet, quiet_seconds = judge(cores)
    # Each in a session of its own, as the fork servers are: the scheduler shares cores out by session first.
    load = [
        subprocess.Popen([sys.executable, "-c", source], start_new_session=True)
        for source in [BURN] * 2 * cores + [COPY] * cores
    ]
    try:
        time.sleep(1)
        runs = {f"loaded, {cores} workers": judge(cores), f"loaded, {4 * cores} workers": judge(4 * cores)}
        assert [process.poll() for process in load] == [None] * len(load)
    finally:
        for process in load:
            process.kill()
    used = [os.wait4(process.pid, 0)[2] for process in load]
    load_seconds = round(sum(usage.ru_utime + usage.ru_stime for usage in used), 1)
    differences = {
        name: [[key, quiet[key].result, found[key].result] for key in quiet if found[key] != quiet[key]]
        for name, (found, _) in runs.items()
    }
    note(
        "load",
        {
            "programs": {name: len(chosen) for name, (chosen, _) in groups.items()},
            "passed": {name: sum(quiet[key].passed for key in chosen) for name, (chosen, _) in groups.items()},
            "timed_out": sum(verdict.result == "timed out" for verdict in quiet.values()),
            "load": f"{2 * cores} busy loops and {cores} copies of 64 MiB without end",
            "cpu_seconds_of_the_load": load_seconds,
            "seconds": {"quiet": quiet_seconds, **{name: seconds for name, (_, seconds) in runs.items()}},
            "differences": differences,
        },
    )
    assert all(quiet[key].passed for key in references)
    assert 0 < sum(quiet[key].passed for key in changed) < len(changed)
    assert "timed out" in {verdict.result for verdict in quiet.values()}
    assert not any(differences.values()), differences
