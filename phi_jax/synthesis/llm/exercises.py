"""Checks of exercises that an LLM wrote: the solution runs, its examples hold, its tests pass and notice wrong ones.

Tests are vacuous when a trivial body of mutations.py passes them, or when they notice fewer than `LEAST_NOTICED` of the
mutants and leave more than `EQUIVALENT` of them unnoticed. The rule is measured (tests/acceptance/vacuous.json):
of 400 exercises of the grammar it sets aside none with 20 honest tests, 9 with 5 taken at random; of HumanEval's own
tests none in 155, of MBPP's, three a problem, 28 in 965; and of 2,800 vacuous suites all. 40 exercises a CPU-second.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from phi_jax.sandbox import Limits, Sandbox, Verdict
from phi_jax.synthesis.llm.examples import docstring_examples, parsed, uses_sets
from phi_jax.synthesis.llm.mutations import mutants, trivial_bodies
from phi_jax.synthesis.llm.prompts import Exercise
from phi_jax.synthesis.llm.run_checks import TAMPERS, Check, check, no_fault, program, said
from phi_jax.synthesis.outputs import Fault

FEWEST_TESTS = 3
LEAST_NOTICED = 0.5  # of the mutants
EQUIVALENT = 2  # mutants that may be unnoticed in any case: `x > 0` and `x >= 0` have the same sum
_LONGEST = 50_000  # characters of an exercise: far above what a function takes
_LIMITS = Limits(wall_seconds=20.0, cpu_seconds=6.0)
_DEFINITIONS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)


class Written(NamedTuple):
    """An exercise as somebody wrote it."""

    code: str
    tests: Sequence[str] | None  # None = it has none and is only run


@dataclasses.dataclass(frozen=True)
class _Exercise(Check):
    """An exercise that reads well. arguments: of sandbox_checks.exercise, all but the mutants."""

    arguments: tuple[Any, ...]
    mutants: list[str]


def check_exercises(
    exercises: Sequence[Written | Exercise], names: Sequence[str | None], label: str, *, sandbox: str, workers: int
) -> list[Fault | None]:
    """For each exercise None, or why it is set aside.

    One without tests is run, and its examples hold. names: what the function must be called; None = the function that
    the tests call. sandbox: "full" or "none".
    """
    asked = list(zip(exercises, names, strict=True))
    return check(asked, _read, _judged, label, limits=_LIMITS, confinement=sandbox, workers=workers)


def _judged(exercise: Check, verdict: Verdict, confinement: str) -> Fault | None:
    if not isinstance(exercise, _Exercise):
        return no_fault(exercise, verdict, confinement)
    noticed = said(verdict) if verdict.passed else _one_by_one(exercise, confinement)
    if isinstance(noticed, Fault):
        return noticed
    trivial = trivial_bodies("f")
    expected = [bool] * len(trivial) + [bool | None] * len(exercise.mutants)
    if not isinstance(noticed, list) or len(noticed) != len(expected) or not all(map(isinstance, noticed, expected)):
        return TAMPERS
    for (what, _), caught in zip(trivial, noticed, strict=False):
        if not caught:
            return Fault("weak_tests", f"the tests pass with a function that {what}")
    live = [caught for caught in noticed[len(trivial) :] if caught is not None]
    if sum(live) < LEAST_NOTICED * len(live) and len(live) - sum(live) > EQUIVALENT:
        return Fault("weak_tests", f"the tests notice only {sum(live)} of {len(live)} small changes to the solution")
    return None


def _one_by_one(exercise: _Exercise, sandbox: str) -> Any:
    """What sandbox_checks.exercise says where its process ended early: was it the solution, or one of its mutants?"""
    with Sandbox(limits=_LIMITS, confinement=sandbox) as box:
        (solution,) = map(said, box.run([program(exercise.again)]))
        if not isinstance(solution, list):
            return solution
        alone = box.run(program(_call(exercise.arguments, [mutant])) for mutant in exercise.mutants)
        # A mutant that ends its process does not pass the tests.
        return solution + [found[-1] if isinstance(found, list) and found else True for found in map(said, alone)]


def _call(arguments: tuple[Any, ...], changed: Sequence[str]) -> str:
    return f"exercise(*{arguments!r}, {changed!r})"


def _read(asked: tuple[Written | Exercise, str | None]) -> Check | Fault:
    """The check of an exercise, or the fault that shows without running it. Raises ValueError for no Python."""
    (code, tests), name = (asked[0].code, asked[0].tests), asked[1]
    if len(code) + sum(map(len, tests or ())) > _LONGEST:
        return Fault("wrong_form", f"it is longer than {_LONGEST:,} characters")
    tree = parsed(code)
    if tests is None:
        call = f"textbook({[(code, docstring_examples(tree, 'the code'), None)]!r})"
        return Check(call, call, uses_sets(tree))
    trees = [parsed(test, f"test {number}") for number, test in enumerate(tests, 1)]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if name is None:  # the last function that a test calls
        used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
        name = next((function.name for function in reversed(functions) if function.name in used), None)
    if name is None:
        return Fault("few_tests", "the tests call no function that the code defines")
    if fault := _wrong_form(tree, functions, name):
        return fault
    if len(set(tests)) < FEWEST_TESTS:
        return Fault("few_tests", f"it has {len(set(tests))} different tests, fewer than {FEWEST_TESTS}")
    arguments = (name, code, docstring_examples(tree, "the code"), tests, [body for _, body in trivial_bodies(name)])
    changed = [mutant.code for mutant in mutants(code)]
    return _Exercise(_call(arguments, changed), _call(arguments, []), uses_sets(tree, *trees), arguments, changed)


def _wrong_form(tree: ast.Module, functions: Sequence[ast.FunctionDef], name: str) -> Fault | None:
    """The fault of code that is not imports and definitions, one of them the function with a docstring."""
    for node in tree.body:
        documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (documents or isinstance(node, _DEFINITIONS)):
            return Fault("wrong_form", f"the code's line {node.lineno} is neither an import nor a definition")
    asked = [function for function in functions if function.name == name]
    if len(asked) != 1:
        return Fault("wrong_form", f"the code defines {name} {len(asked)} times, not once")
    if not ast.get_docstring(asked[0]):
        return Fault("wrong_form", f"{name} has no docstring")
    return None
