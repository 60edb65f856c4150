"""The rule for vacuous tests at full size: who is set aside of good suites and of vacuous ones. Writes vacuous.json.

    pytest tests/acceptance/test_vacuous_tests.py

Good suites: 400 exercises of the grammar with 3 to 20 of their 20 fixed inputs, taken at random; MBPP's and HumanEval's
own solutions and tests. Vacuous ones: the same exercises with tests that say nothing.
"""

import ast
import datetime
import gzip
import json
import os
import platform
import random
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from phi_jax.synthesis.grammar import catalogue, grammar_texts
from phi_jax.synthesis.llm import exercises
from phi_jax.synthesis.llm.exercises import Written, check_exercises

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

EXERCISES = 400
RESULT = Path(__file__).with_name("vacuous.json")


def suites(known):
    """(text, {kind of suite: tests}) for an exercise."""
    text = grammar_texts.exercise(known, 0)
    rng = random.Random(known.digest)
    cases = [
        (f"{text.entry_point}({', '.join(map(repr, arguments))})", output)
        for arguments, output in zip(catalogue.fixed_inputs(known.behaviour.signature), known.outputs, strict=True)
    ]

    def equal(chosen):
        return [f"assert {call} == {output}" for call, output in chosen]

    good = {f"{count} cases": equal(rng.sample(cases, count)) for count in (20, 10, 5, 4, 3)}
    five = rng.sample(cases[2:], 5)  # the first two are the empty and the single one
    (empty, nothing), (call, output) = cases[0], five[0]
    vacuous = {
        "empty asserts": ["assert True", "assert 1 == 1", "assert not False"],
        "it runs": [f"{call}\nassert True" for call, _ in five],
        "f(x) == f(x)": [f"assert {call} == {call}" for call, _ in five],
        "types": [f"assert isinstance({call}, {type(ast.literal_eval(output)).__name__})" for call, output in five],
        "not None": [f"assert {call} is not None" for call, _ in five],
        "the empty case": [f"assert {empty} == {nothing}", f"assert {nothing} == {empty}",
                           f"assert repr({empty}) == {nothing!r}"],
        "one case": [f"assert {call} == {output}", f"assert {output} == {call}", f"assert repr({call}) == {output!r}"],
    }  # fmt: skip
    return text, good, vacuous


def returns_its_argument(known):
    """Whether the behaviour is none to speak of: capitals in upper case, other letters in lower case."""
    inputs = catalogue.fixed_inputs(known.behaviour.signature)
    return [repr(arguments[0]) for arguments in inputs] == list(known.outputs)


def checked(written):
    return check_exercises(written, "exercises", sandbox="full", workers=1)


def groups(reasons):
    """How often which code."""
    return dict(Counter(fault.code for fault in reasons if fault is not None))


def cpu_seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def documented(code, name, text):
    """The code with `text` as the docstring of the function, as an exercise must have one."""
    tree = ast.parse(code)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name and not ast.get_docstring(node):
            node.body.insert(0, ast.Expr(ast.Constant(text)))
    return ast.unparse(ast.fix_missing_locations(tree))


def mbpp(directory):
    """MBPP's problems that need no setup, with their three tests."""
    for line in (directory / "mbpp.jsonl").read_text().splitlines():
        problem = json.loads(line)
        defined = [node.name for node in ast.parse(problem["code"]).body if isinstance(node, ast.FunctionDef)]
        name = next((name for name in reversed(defined) if f"{name}(" in problem["test_list"][0]), None)
        if name is not None and not problem["test_setup_code"]:
            yield Written(documented(problem["code"], name, problem["text"]), problem["test_list"], name)


def humaneval(directory):
    """HumanEval's problems whose tests are plain asserts."""
    with gzip.open(directory / "HumanEval.jsonl.gz", "rt") as file:
        for problem in map(json.loads, file):
            (check,) = [node for node in ast.parse(problem["test"]).body if isinstance(node, ast.FunctionDef)]
            statements = [node for node in check.body if not isinstance(node, ast.Pass | ast.Expr)]
            if all(isinstance(node, ast.Assert) for node in statements):
                asserts = [text for text in map(ast.unparse, statements) if "candidate" in text]  # not "assert True"
                tests = [text.replace("candidate", problem["entry_point"]) for text in asserts]
                code = problem["prompt"] + problem["canonical_solution"]
                yield Written(ast.unparse(_without_examples(code)), tests, problem["entry_point"])


def _without_examples(code):
    """The program without the benchmark's examples, some of which are no doctests."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ">>>" in node.value:
            node.value = node.value.replace(">>>", "e.g.")
    return tree


def test_good_suites_stay_and_vacuous_ones_go(shared_data):
    known = [k for k in catalogue.held_out(catalogue.behaviours(120), 10)[0] if not returns_its_argument(k)]
    chosen = [suites(k) for k in random.Random(0).sample(known, EXERCISES)]
    good, vacuous = {}, {}
    for place, table in ((1, good), (2, vacuous)):
        for kind in chosen[0][place]:
            written = [Written(entry[0].code, entry[place][kind], entry[0].entry_point) for entry in chosen]
            cpu, wall = cpu_seconds(), time.monotonic()
            reasons = checked(written)
            table[kind] = {
                "exercises": len(reasons),
                "set_aside": sum(reason is not None for reason in reasons),
                "reasons": groups(reasons),
                "per_second": round(len(reasons) / (time.monotonic() - wall), 1),
                "per_cpu_second": round(len(reasons) / (cpu_seconds() - cpu), 1),
            }
    for name, problems in (("MBPP", mbpp), ("HumanEval", humaneval)):
        reasons = checked([*problems(shared_data / "eval")])
        good[name] = {
            "exercises": len(reasons),
            "set_aside": sum(reason is not None for reason in reasons),
            "reasons": groups(reasons),
        }
    RESULT.write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, one worker",
                "rule": {"least_noticed": exercises.LEAST_NOTICED, "equivalent": exercises.EQUIVALENT},
                "good": good,
                "vacuous": vacuous,
            },
            indent=1,
        )
        + "\n"
    )
    assert good["20 cases"]["set_aside"] == 0
    assert max(good[name]["set_aside"] / good[name]["exercises"] for name in ("MBPP", "HumanEval")) <= 0.05
    assert good["5 cases"]["set_aside"] <= 0.03 * EXERCISES
    for kind, found in vacuous.items():
        assert found["set_aside"] == EXERCISES, kind
