"""Checks of exercises that an LLM wrote: the solution runs, its examples hold, its tests pass and notice wrong ones.

Tests are vacuous when a trivial body of mutations.py passes them, or when they notice fewer than LEAST_NOTICED of the
mutants and leave more than EQUIVALENT of them unnoticed. The rule is measured (tests/acceptance/vacuous.json):
of 400 exercises of the grammar it sets aside none with 20 honest tests, 7 with 5 taken at random; of HumanEval's own
tests 1 in 154, of MBPP's, three a problem, 28 in 964; and of 2,800 vacuous suites all. 29 exercises a CPU-second.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from phi_jax.synthesis.llm.examples import docstring_examples, parsed
from phi_jax.synthesis.llm.mutations import mutants, trivial_bodies
from phi_jax.synthesis.llm.run_checks import TAMPERS, as_fault, check, run
from phi_jax.synthesis.llm.sandbox_checks import Block
from phi_jax.synthesis.outputs import Fault

FEWEST_TESTS = 3
LEAST_NOTICED = 0.5  # of the mutants
EQUIVALENT = 2  # mutants that may be unnoticed in any case: `x > 0` and `x >= 0` have the same sum
_ALLOWED = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


class Written(NamedTuple):
    """An exercise as somebody wrote it."""

    code: str
    tests: Sequence[str] | None  # None = it has none and is only run
    name: str | None = None  # what the function must be called; None = the last function that the tests name


def check_exercises(exercises: Sequence[Written], label: str, **box: Any) -> list[Fault | None]:
    """For each exercise None, or why it is set aside.

    One without tests is run, and its examples hold. box: `sandbox` and `workers` of run_checks.run.
    """
    asked = [each._replace(name=each.name or _tested(each)) for each in exercises]
    faults = check(asked, _read, label, **box)
    sound = [place for place, fault in enumerate(faults) if fault is None and asked[place].tests is not None]
    versions = [_wrong_versions(asked[place]) for place in sound]
    calls = [_call(asked[place], wrong) for place, wrong in zip(sound, versions, strict=True)]
    told = list(run(calls, f"{label}, wrong versions", **box))
    for place, wrong, noticed in zip(sound, versions, told, strict=True):
        if isinstance(noticed, Fault):  # a version ended the process: that is noticed, and each has its own now
            alone = run([_call(asked[place], [version]) for version in wrong], f"{label}, one by one", **box)
            noticed = [said == [True] or isinstance(said, Fault) for said in alone]
        faults[place] = _weakness(noticed)
    return faults


def _tested(exercise: Written) -> str | None:
    """The last function of the code that the tests name."""
    functions = re.findall(r"^def (\w+)", exercise.code, re.MULTILINE)
    named = set(re.findall(r"\w+", "\n".join(exercise.tests or ())))
    return next((function for function in reversed(functions) if function in named), None)


def _read(exercise: Written) -> str | Fault:
    """The call that checks an exercise, or the fault that shows without running it. Raises one of UNREADABLE."""
    tree = parsed(exercise.code)
    blocks: list[Block] = [("the code", exercise.code, docstring_examples(tree, "the code"), None)]
    for number, test in enumerate(exercise.tests or (), 1):
        parsed(test, f"test {number}")
        blocks.append((f"test {number}", test, (), None))
    fault = None if exercise.tests is None else _wrong_form(exercise, tree)
    return fault or f"textbook({blocks!r})"


def _wrong_form(exercise: Written, tree: ast.Module) -> Fault | None:
    """The fault of too few tests, and of code that is not imports and definitions, one of them the documented function
    that they test.
    """
    different = len(set(exercise.tests or ()))
    if different < FEWEST_TESTS:
        return Fault("few_tests", f"it has {different} different tests, fewer than {FEWEST_TESTS}")
    for node in tree.body:
        documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (documents or isinstance(node, _ALLOWED)):
            return Fault("wrong_form", f"the code's line {node.lineno} is neither an import nor a definition")
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == exercise.name]
    if len(functions) != 1:
        return Fault("wrong_form", f"the code defines {exercise.name} {len(functions)} times, not once")
    return None if ast.get_docstring(functions[0]) else Fault("wrong_form", f"{exercise.name} has no docstring")


def _wrong_versions(exercise: Written) -> list[str]:
    """The code with each trivial body in the solution's place, then its mutants."""
    trivial = [f"{exercise.code}\n{body}" for _, body in trivial_bodies(exercise.name or "")]
    return trivial + [mutant.code for mutant in mutants(exercise.code)]


def _call(exercise: Written, versions: Sequence[str]) -> str:
    return f"exercise{(exercise.name, exercise.code, exercise.tests, versions)!r}"


def _weakness(noticed: Any) -> Fault | None:
    """The fault of tests, given for each wrong version whether they notice it: the candidate's own word."""
    if not isinstance(noticed, list):
        return as_fault(noticed) or TAMPERS
    trivial = trivial_bodies("")
    for (what, _), seen in zip(trivial, noticed, strict=False):
        if not seen:
            return Fault("weak_tests", f"the tests pass with a function that {what}")
    count, caught = len(noticed) - len(trivial), noticed[len(trivial) :].count(True)
    if caught < LEAST_NOTICED * count and count - caught > EQUIVALENT:
        return Fault("weak_tests", f"the tests notice only {caught} of {count} small changes to the solution")
    return None
