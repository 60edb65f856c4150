"""EvalPlus (Liu et al. 2023): HumanEval+ and MBPP+ as its releases HumanEvalPlus.jsonl and MbppPlus.jsonl have them.

A problem has no asserts but inputs, and a solution that is right by definition: what it returns is what a candidate
has to return. A candidate passes the benchmark when it passes the base inputs (the original benchmark's) and the plus
inputs; the verdict on the base inputs alone is kept beside it, as EvalPlus reports both.

The comparison is differential.py, of which the judge executes the source.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation.jsonl import field_of
from phi_jax.evaluation.stops import body_indent

_FORMAT = "EvalPlus"
_GROUPS = ("base", "plus")


def problem_fields(row: dict[str, Any], place: str) -> dict[str, Any]:
    """What a Problem takes of a row. Raises UserError naming place and field for what is missing."""
    task_id, prompt, entry_point, solution = (
        field_of(row, name, str, place, _FORMAT) for name in ("task_id", "prompt", "entry_point", "canonical_solution")
    )
    inputs = {group: _inputs(row, f"{group}_input", place) for group in _GROUPS}
    about = {
        "task_id": task_id,
        "entry_point": entry_point,
        "reference": prompt + solution,
        "atol": field_of(row, "atol", float, place, _FORMAT),
    }
    return {
        "task_id": task_id,
        "prompt": prompt,
        "tests": _call(entry_point, {**about, "inputs": inputs}),
        "base_tests": _call(entry_point, {**about, "inputs": {"base": inputs["base"]}}),
        "entry_point": entry_point,
        "reference": solution,
        # Under one name, which no problem uses: the candidate's names and the reference's stay apart.
        "trusted": f"_differential = {{}}\nexec({_source()!r}, _differential)\n",
        "stop": "dedent" if body_indent(prompt) else "mbpp",  # MBPP+'s prompts ask for a whole function
    }


def _inputs(row: dict[str, Any], name: str, place: str) -> list[list[Any]]:
    values = row.get(name)
    if values == {}:  # a problem of MBPP+ that has no plus inputs
        return []
    if not isinstance(values, list) or not all(isinstance(arguments, list) for arguments in values):
        raise UserError(f"{place}: no list of calls' arguments in field {name!r}; {_FORMAT}'s format has it")
    return values


def _call(entry_point: str, tests: dict[str, Any]) -> str:
    # JSON in a text: a source with megabytes of literals takes the judge long to parse.
    return f"_differential['check']({entry_point}, {json.dumps(tests)!r})"


def _source() -> str:
    return (importlib.resources.files("phi_jax.evaluation") / "differential.py").read_text()


def results(rows: Mapping[str, dict[str, Any]], programs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What EvalPlus writes as samples_eval_results.json, and reads instead of running samples.jsonl again.

    rows: of the problems, by task_id. programs: {"task_id", "solution", "passed", "result", "base_passed",
    "base_result"} of each sample. It differs from EvalPlus's own in this: there is no date, since equal verdicts shall
    be equal bytes; the hash, EvalPlus's MD5 of the problems' file, is that of the rows in the form in which EvalPlus
    writes them; a sample that fails the base tests is not run on the plus inputs, and counts as failing there; what
    failed is the first input that did, and none where the sample ran out of time.
    """
    evaluated: dict[str, list[dict[str, Any]]] = {}
    for p in programs:
        row = rows[p["task_id"]]
        evaluated.setdefault(p["task_id"], []).append(
            {
                "task_id": p["task_id"],
                "solution": p["solution"],
                "base_status": _status(p["base_passed"], p["base_result"]),
                "plus_status": _status(p["passed"], p["result"]),
                "base_fail_tests": _failed(row, "base", p["base_result"]),
                "plus_fail_tests": _failed(row, "plus", p["result"]),
            }
        )
    lines = "".join(json.dumps(row) + "\n" for row in rows.values())
    return {"hash": hashlib.md5(lines.encode(), usedforsecurity=False).hexdigest(), "eval": evaluated}


def _status(passed: bool, result: str) -> str:
    return "pass" if passed else "timeout" if result == "timed out" else "fail"


def _failed(row: dict[str, Any], group: str, result: str) -> list[Any]:
    found = re.match(rf"failed: {group} input (\d+)\b", result)
    inputs = row[f"{group}_input"]
    return inputs[int(found[1]) :][:1] if found else []
