"""The problems that no training text may hold, and what one text has in common with them."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from phi_jax.contamination import syntax
from phi_jax.contamination.overlap import GRAM, Wording
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import Problem, load_problems
from phi_jax.store.markdown import fences
from phi_jax.store.python_text import parse

# What `inspect` says of a text. The first two take it out.
SYNTAX, TEXT = REMOVING = ("same syntax", "same text")
WORDS, NOT_PARSED = f"{GRAM} words of a prompt", "not parsed"
# AST nodes, arguments and all, below which equal syntax is no evidence: everybody writes `def plus(a, b): return a + b`
# (9 nodes, HumanEval/53). 18 is the least size at which the solutions of neither HumanEval nor MBPP remove a file of
# the standard library, where none is a leak; 21 of HumanEval's 164 solutions are smaller.
LEAST_NODES = 18


class HeldOut:
    """Problems, indexed for looking up what texts have in common with them.

    tasks: their names. fingerprints: of solutions, with their tasks. untold: tasks that would not be found in a copy of
    their prompt and solution.
    """

    def __init__(self, file: str) -> None:
        """file: of problems, or a built-in benchmark. A row's field "renderings" lists other ways to write the
        solution. Raises UserError naming file and problem where a solution is missing or has no function.
        """
        _, problems = load_problems(file)
        self.tasks = [problem.task_id for problem in problems]
        self.fingerprints: dict[str, list[str]] = defaultdict(list)
        self._shapes: set[tuple[Any, ...]] = set()
        self._wording = Wording(problems)
        for problem in problems:
            for function in solutions(file, problem):
                key, nodes = syntax.fingerprint(function)
                if nodes >= LEAST_NODES:
                    self._shapes.add(syntax.shape(function))
                    self.fingerprints[key].append(problem.task_id)
        self.untold = [
            problem.task_id
            for problem in problems
            if not any(
                problem.task_id in self.inspect(f"{problem.prompt}{problem.reference}").get(r, ()) for r in REMOVING
            )
        ]

    def inspect(self, text: str, *, prose: bool = True) -> dict[str, list[str]]:
        """What is to be said of a text -> the tasks it concerns, in the problems' order.

        SYNTAX: a function is a solution modulo names; of Markdown the blocks of Python are compared. TEXT: a sentence,
        a solution, or with `prose` 13 words of a docstring. WORDS: 13 words of a prompt, code included. NOT_PARSED.
        """
        tree = parse(text)
        if tree is None:  # of a Markdown text the fenced blocks that are Python, whatever they are called
            blocks = [f.content for f in fences(text) if f.content.strip() and parse(f.content) is not None]
            tree = parse("\n".join(blocks)) if blocks else None
        same_syntax: set[str] = set()
        for function in syntax.functions(tree) if tree is not None else ():
            if syntax.shape(function) in self._shapes:
                try:
                    same_syntax.update(self.fingerprints.get(syntax.fingerprint(function)[0], ()))
                except RecursionError:  # deeper than any solution
                    continue
        words = self._wording.overlap(text)
        found = {SYNTAX: same_syntax, TEXT: words.said | (words.prose if prose else set()), WORDS: words.prompts}
        told = {reason: [task for task in self.tasks if task in tasks] for reason, tasks in found.items() if tasks}
        return told if tree is not None else {**told, NOT_PARSED: []}


def solutions(file: str, problem: Problem) -> Iterator[syntax.AnyFunction]:
    """The function that solves a problem, and its other renderings. Raises UserError naming file and problem where one
    is missing or has no function.
    """
    if problem.reference is None:
        raise UserError(f"{file}: {problem.task_id} has no canonical_solution; without it nothing can be compared")
    for source in (problem.prompt + problem.reference, *(problem.row.get("renderings") or ())):
        tree = parse(source)
        found = [] if tree is None else list(syntax.functions(tree))
        # Helpers may stand before it or in it; MBPP says its name in the tests only; a rendering may have another name.
        names = re.findall(r"\w+", problem.entry_point or problem.tests)
        chosen = [f for f in found if f.name in names] or found[-1:]
        if not chosen:
            raise UserError(f"{file}: {problem.task_id}: no function in its solution or a rendering; correct the line")
        yield chosen[0]
