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
from typing import TYPE_CHECKING

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox
from phi_jax.synthesis.confined import Example
from phi_jax.synthesis.examples import docstring_examples, parsed
from phi_jax.synthesis.mutations import Mutant, mutants, trivial_bodies
from phi_jax.synthesis.verify import OTHER_HASH_SEED, confined_program, said, uses_sets

if TYPE_CHECKING:
    from phi_jax.synthesis.prompts import Exercise

FEWEST_TESTS = 3
LEAST_NOTICED = 0.5  # of the mutants
EQUIVALENT = 2  # mutants that may be unnoticed in any case: `x > 0` and `x >= 0` have the same sum
_LONGEST = 50_000  # characters of an exercise: far above what a function takes
_LIMITS = Limits(wall_seconds=20.0, cpu_seconds=6.0)
_NOTICED = "noticed "  # confined.exercise: the letters follow
_OUTERMOST = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)


def check_exercises(
    exercises: Sequence[Exercise], names: Sequence[str | None], label: str, *, sandbox: str, workers: int
) -> list[str | None]:
    """For each exercise None, or why it is set aside: one line, the same in every run.

    names: what the function must be called; None = the function that the tests call. sandbox: "full" or "none".
    """
    read = [_reading(exercise, name) for exercise, name in zip(exercises, names, strict=True)]
    runnable = [reading for reading in read if isinstance(reading, _Reading)]
    with (
        Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox) as box,
        Progress(label, len(runnable), "exercises") as bar,
    ):
        verdicts: list[str | None] = []
        for reading, verdict in zip(runnable, box.run(r.program(r.mutants) for r in runnable), strict=True):
            whole, outcome = said(verdict)
            verdicts.append(_judged(outcome, len(reading.mutants)) if whole else _one_by_one(reading, sandbox))
            bar.advance()
    doubtful = [i for i, reading in enumerate(runnable) if verdicts[i] is None and reading.uses_sets]
    with Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox, hash_seed=OTHER_HASH_SEED) as box:
        for i, verdict in zip(doubtful, box.run(runnable[i].program([]) for i in doubtful), strict=True):
            _, outcome = said(verdict)
            if not outcome.startswith(_NOTICED):
                verdicts[i] = f"with sets in another order: {outcome}"
    ran = iter(verdicts)
    return [next(ran) if isinstance(reading, _Reading) else reading for reading in read]


def _one_by_one(reading: _Reading, sandbox: str) -> str | None:
    """The verdict on an exercise that did not come to its end: was it the solution, or one of its mutants?"""
    with Sandbox(limits=_LIMITS, confinement=sandbox) as alone:
        (verdict,) = alone.run([reading.program([])])
        whole, outcome = said(verdict)
        if not whole or not outcome.startswith(_NOTICED):
            return outcome
        for verdict in alone.run(reading.program([mutant]) for mutant in reading.mutants):
            whole, found = said(verdict)
            outcome += found[-1] if whole else "1"  # a mutant that ends its process does not pass the tests
    return _judged(outcome, len(reading.mutants))


def _judged(outcome: str, changes: int) -> str | None:
    """The verdict on what confined.exercise says of so many mutants."""
    trivial = trivial_bodies("f")
    letters = outcome.removeprefix(_NOTICED)
    if letters == outcome or len(letters) != len(trivial) + changes:
        return outcome or "it tampers with its check"
    for (what, _), letter in zip(trivial, letters, strict=False):
        if letter == "0":
            return f"the tests pass with a function that {what}"
    live = letters[len(trivial) :].replace("-", "")
    if live.count("1") < LEAST_NOTICED * len(live) and live.count("0") > EQUIVALENT:
        return f"the tests notice only {live.count('1')} of {len(live)} small changes to the solution"
    return None


@dataclasses.dataclass(frozen=True)
class _Reading:
    """An exercise that reads well."""

    name: str
    code: str
    examples: list[list[Example]]
    tests: list[str]
    mutants: list[Mutant]
    uses_sets: bool

    def program(self, changed: Sequence[Mutant]) -> Program:
        bodies = [body for _, body in trivial_bodies(self.name)]
        sources = [mutant.code for mutant in changed]
        return confined_program(
            f"exercise({self.name!r}, {self.code!r}, {self.examples!r}, {self.tests!r}, {bodies!r}, {sources!r})"
        )


def _reading(exercise: Exercise, name: str | None) -> _Reading | str:
    """The exercise, read without running anything; or why it is set aside."""
    if len(exercise.code) + sum(map(len, exercise.tests)) > _LONGEST:
        return f"it is longer than {_LONGEST:,} characters"
    try:
        return _read(exercise.code, exercise.tests, name)
    except ValueError as error:
        return " ".join(str(error).split())
    except RecursionError:
        return "the code is nested too deeply"


def _read(code: str, tests: Sequence[str], name: str | None) -> _Reading:
    """Raises ValueError with the reason."""
    tree = _parsed("the code", code)
    trees = [_parsed(f"test {number}", test) for number, test in enumerate(tests, 1)]
    for node in tree.body:
        documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (isinstance(node, _OUTERMOST) or documents):
            raise ValueError(f"the code's line {node.lineno} is neither an import nor a definition")
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if name is None:
        name = _tested(functions, trees)
    asked = [function for function in functions if function.name == name]
    if len(asked) != 1:
        raise ValueError(f"the code defines {name} {len(asked)} times, not once")
    _check_function(asked[0])
    if len(set(tests)) < FEWEST_TESTS:
        raise ValueError(f"it has {len(set(tests))} different tests, fewer than {FEWEST_TESTS}")
    for number, test in enumerate(trees, 1):
        nodes = list(ast.walk(test))
        if not any(isinstance(node, ast.Assert) for node in nodes):
            raise ValueError(f"test {number} asserts nothing")
        if not any(isinstance(node, ast.Name) and node.id == name for node in nodes):
            raise ValueError(f"test {number} does not call {name}")
    try:
        examples = docstring_examples(tree)
    except ValueError as error:
        raise ValueError(f"an example cannot be read: {error}") from None
    return _Reading(name, code, examples, list(tests), mutants(code), uses_sets(tree, *trees))


def _parsed(what: str, source: str) -> ast.Module:
    try:
        return parsed(source)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def _tested(functions: Sequence[ast.FunctionDef], tests: Sequence[ast.Module]) -> str:
    """The name of the last function that a test calls. Raises ValueError if they call none."""
    used = {node.id for test in tests for node in ast.walk(test) if isinstance(node, ast.Name)}
    found = [function.name for function in functions if function.name in used]
    if not found:
        raise ValueError("the tests call no function that the code defines")
    return found[-1]


def _check_function(function: ast.FunctionDef) -> None:
    """Raises ValueError for a function without a docstring or without a body."""
    if not ast.get_docstring(function):
        raise ValueError(f"{function.name} has no docstring")
    if all(map(_does_nothing, function.body)):
        raise ValueError(f"{function.name} has no body")


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
