"""Every perturbation on all of HumanEval, MBPP and the idioms: the references still pass. Writes perturbed.json.

    pytest tests/acceptance/test_perturbed_references.py

Counts of changed, unchanged and not applicable at three rates; at rate 1, where most changes, every changed problem's
reference goes through the sandbox. perturbed.json also holds, for each, one prompt of the idioms as it came out.
"""

import ast
import datetime
import json
import os
import platform
import re
from pathlib import Path

import pytest

from phi_jax.evaluation.execution import Sample, execute
from phi_jax.evaluation.perturb import PERTURBATIONS, perturb
from phi_jax.evaluation.problems import Problem, load_problems

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

RATES = (0.1, 0.3, 1.0)
SEED = 0
SHOWN = "idioms/33"
RESULT = Path(__file__).with_name("perturbed.json")


def mbpp(directory):
    """All 974 problems, as a docstring of the text and the asserts."""
    for line in (directory / "mbpp.jsonl").read_text().splitlines():
        row = json.loads(line)
        tests = "\n".join(row["test_list"])
        yield Problem(
            f"MBPP/{row['task_id']}",
            prompt=f'"""\n{row["text"]}\n{tests}\n"""\n',
            tests=tests,
            entry_point=None,
            reference=row["code"],
            setup=row["test_setup_code"],
        )


def failing(problems):
    samples = [Sample(p.task_id, p.reference, p.reference) for p in problems]
    records = execute(problems, samples, form="kept", sandbox="full", workers=2, wall_seconds=60)
    return [r["task_id"] for r in records if not r["passed"]]


def long_argument(problem):
    """Whether the function to be written, the last of the prompt, has an argument of more than one letter."""
    function = [node for node in ast.parse(problem.prompt).body if isinstance(node, ast.FunctionDef)][-1]
    return any(len(argument.arg) > 1 for argument in function.args.args)


def test_every_reference_passes_under_every_perturbation(shared_data):
    benchmarks = {
        "HumanEval": load_problems(str(shared_data / "eval" / "HumanEval.jsonl.gz"))[1],
        "MBPP": list(mbpp(shared_data / "eval")),
        "idioms": load_problems("idioms")[1],
    }
    counts = {}
    failed = {}
    shown = {}
    for name in PERTURBATIONS:
        for benchmark, problems in benchmarks.items():
            found = {rate: perturb(problems, name, rate=rate, seed=SEED) for rate in RATES}
            counts.setdefault(name, {})[benchmark] = {
                str(rate): {"changed": len(f.problems), "unchanged": f.unchanged, "not_applicable": f.not_applicable}
                for rate, f in found.items()
            }
            changed = found[1.0].problems
            failed[f"{name}, {benchmark}"] = failing(changed)
            if benchmark == "idioms":
                shown[name] = next((p.prompt for p in changed if p.task_id == SHOWN), None)
            if name == "rename_function":
                entry_points = {p.task_id: p.entry_point for p in problems}
                for p in changed:
                    old = entry_points[p.task_id]
                    assert not old or "_" not in old or not re.search(rf"\b{old}\b", p.prompt + p.tests), p.task_id
    RESULT.write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
                "seed": SEED,
                "problems": {benchmark: len(problems) for benchmark, problems in benchmarks.items()},
                "counts": counts,
                "references_failing_at_rate_1": failed,
                "shown": shown,
            },
            indent=1,
        )
        + "\n"
    )
    assert not any(failed.values())
    for found in counts.values():
        for benchmark, problems in benchmarks.items():
            assert sum(found[benchmark]["1.0"].values()) == len(problems)
            assert found[benchmark]["1.0"]["unchanged"] == 0
    # Arguments of one letter are neutral already: the rest of HumanEval is changed, to the last problem.
    assert counts["rename_arguments"]["HumanEval"]["1.0"]["changed"] == sum(map(long_argument, benchmarks["HumanEval"]))
    for name in ("typos", "rename_function"):
        assert counts[name]["HumanEval"]["1.0"]["not_applicable"] == 0
        assert counts[name]["MBPP"]["1.0"]["not_applicable"] <= 1  # MBPP/31 calls its function func
