"""The benchmarks' own solutions pass, and wrong ones do not."""

import ast
import gzip
import json

import pytest

from phi_jax.evaluation.execution import program as evaluated
from phi_jax.evaluation.problems import load_problems
from phi_jax.sandbox import Limits, Program, Sandbox, support

CONFINEMENT = "none" if support().missing else "full"
# MBPP/123's own solution takes 2 to 10 CPU seconds.
LIMITS = Limits(wall_seconds=120, cpu_seconds=60)


@pytest.fixture(scope="module")
def humaneval(shared_data):
    with gzip.open(shared_data / "eval" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def scored(programs, limits=LIMITS):
    with Sandbox(workers=2, limits=limits, confinement=CONFINEMENT) as sandbox:
        return list(sandbox.run(programs))


def program(problem, body):
    return Program(
        candidate=problem["prompt"] + body,
        tests=f"{problem['test']}\ncheck({problem['entry_point']})",
        entry_point=problem["entry_point"],
        trusted=problem["prompt"],
    )


def test_humaneval_references_pass(humaneval):
    verdicts = scored(program(problem, problem["canonical_solution"]) for problem in humaneval)
    failed = [(p["task_id"], v.result) for p, v in zip(humaneval, verdicts, strict=True) if not v.passed]
    assert failed == []
    assert len(verdicts) == 164


def test_humaneval_wrong_bodies_fail(humaneval):
    for body in ("    return None\n", "    return 12345\n"):
        verdicts = scored(program(problem, body) for problem in humaneval)
        assert [p["task_id"] for p, v in zip(humaneval, verdicts, strict=True) if v.passed] == []


class _Always(ast.NodeTransformer):
    """Returns, in the place of every value, an object that claims to be equal to all."""

    def visit_Return(self, node):
        return ast.copy_location(ast.parse("return Always()").body[0], node)


def test_humaneval_objects_equal_to_everything_fail(humaneval):
    liar = (
        "class Always(float):\n"
        "    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "    def __sub__(self, other): return 0.0\n"
        "    __lt__ = __le__ = __gt__ = __ge__ = __eq__\n"
        "    __rsub__ = __sub__\n"
        "    def __abs__(self): return 0.0\n"
        "    def __hash__(self): return 0\n"
    )
    programs = []
    for problem in humaneval:
        tree = ast.parse(problem["prompt"] + problem["canonical_solution"])
        source = "\n".join([ast.unparse(_Always().visit(tree)), liar])
        programs.append(program(problem, "    pass\n" + source))
    # Some bodies never end when all is equal to all.
    verdicts = scored(programs, Limits(wall_seconds=20, cpu_seconds=1))
    passed = [p["task_id"] for p, v in zip(humaneval, verdicts, strict=True) if v.passed]
    assert passed == []


def test_mbpp_references_pass(shared_data):
    """As completions that go behind their prompts, docstring and all."""
    _, problems = load_problems("mbpp", str(shared_data / "eval" / "mbpp.jsonl"))
    verdicts = scored(evaluated(p, p.prompt, p.reference) for p in problems)
    failed = [(p.task_id, v.result) for p, v in zip(problems, verdicts, strict=True) if not v.passed]
    assert failed == []
    assert len(verdicts) == 500
