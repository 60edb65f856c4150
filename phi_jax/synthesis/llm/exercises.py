"""Checks of exercises that an LLM wrote: the solution runs, its examples hold, its tests pass and notice wrong ones.

Tests are vacuous when a trivial body of mutations.py passes them, or when they notice fewer than LEAST_NOTICED of the
mutants and leave more than EQUIVALENT of them unnoticed. The rule is measured (tests/acceptance/vacuous.json):
of 400 exercises of the grammar it sets aside none with 20 honest tests, 9 with 5 taken at random; of HumanEval's own
tests none in 154, of MBPP's, three a problem, 27 in 964; and of 2,800 vacuous suites all. 40 exercises a CPU-second.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import NamedTuple

from phi_jax.sandbox import Limits
from phi_jax.synthesis.llm.examples import docstring_examples, parsed
from phi_jax.synthesis.llm.mutations import mutants, trivial_bodies
from phi_jax.synthesis.llm.prompts import Exercise
from phi_jax.synthesis.llm.run_checks import Check, check
from phi_jax.synthesis.outputs import Fault

FEWEST_TESTS = 3
_LONGEST = 50_000  # characters of an exercise: far above what a function takes
_LIMITS = Limits(wall_seconds=20.0, cpu_seconds=6.0)
_ALLOWED = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


class Written(NamedTuple):
    """An exercise as somebody wrote it."""

    code: str
    tests: Sequence[str] | None  # None = it has none and is only run


def check_exercises(
    exercises: Sequence[Written | Exercise], names: Sequence[str | None], label: str, *, sandbox: str, workers: int
) -> list[Fault | None]:
    """For each exercise None, or why it is set aside.

    One without tests is run, and its examples hold. names: what the function must be called; None = the function that
    the tests call. sandbox: "full" or "none".
    """
    asked = list(zip(exercises, names, strict=True))
    return check(asked, _read, label, limits=_LIMITS, confinement=sandbox, workers=workers)


def _read(asked: tuple[Written | Exercise, str | None]) -> Check | Fault:
    """The check of an exercise, or the fault that shows without running it. Raises ValueError for no Python."""
    exercise, name = asked
    code, tests = exercise.code, exercise.tests
    if len(code) + sum(map(len, tests or ())) > _LONGEST:
        return Fault("wrong_form", f"it is longer than {_LONGEST:,} characters")
    tree = parsed(code)
    sessions = docstring_examples(tree, "the code")
    if tests is None:
        call = f"textbook({[(code, sessions, None)]!r})"
        return Check(call, call)
    trees = [parsed(test, f"test {number}") for number, test in enumerate(tests, 1)]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if name is None:  # the last function that a test calls
        used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
        name = next((function.name for function in reversed(functions) if function.name in used), None)
    if name is None:
        return Fault("few_tests", "the tests call no function that the code defines")
    if fault := _wrong_form(tree, [function for function in functions if function.name == name], name):
        return fault
    if len(set(tests)) < FEWEST_TESTS:
        return Fault("few_tests", f"it has {len(set(tests))} different tests, fewer than {FEWEST_TESTS}")
    whats, bodies = zip(*trivial_bodies(name), strict=True)
    changed = [mutant.code for mutant in mutants(code)]
    call, alone = (
        f"weak_tests(exercise(*{(name, code, sessions, tests, bodies, versions)!r}), {whats!r})"
        for versions in (changed, [])
    )
    return Check(call, alone)


def _wrong_form(tree: ast.Module, asked: Sequence[ast.FunctionDef], name: str) -> Fault | None:
    """The fault of code that is not imports and definitions, one of them the function with a docstring."""
    for node in tree.body:
        documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (documents or isinstance(node, _ALLOWED)):
            return Fault("wrong_form", f"the code's line {node.lineno} is neither an import nor a definition")
    if len(asked) != 1:
        return Fault("wrong_form", f"the code defines {name} {len(asked)} times, not once")
    if not ast.get_docstring(asked[0]):
        return Fault("wrong_form", f"{name} has no docstring")
    return None
