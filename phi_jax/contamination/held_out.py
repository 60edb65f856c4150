"""The problems that no training text may hold, and what one text has in common with them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from phi_jax.contamination import syntax
from phi_jax.contamination.overlap import Wording, wording
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import Problem, load_problems
from phi_jax.store.markdown import fences
from phi_jax.store.python_text import parse

SYNTAX, TEXT = REASONS = ("same syntax", "same text")
# AST nodes, arguments and all, below which equal syntax is no evidence: everybody writes `def plus(a, b): return a + b`
# (9 nodes, HumanEval/53). 18 is the least size at which the solutions of neither HumanEval nor MBPP remove a file of
# the standard library, where none is a leak; 21 of HumanEval's 164 solutions are smaller.
LEAST_NODES = 18


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Problems, indexed for looking them up."""

    tasks: list[str]
    fingerprints: dict[str, list[str]]  # -> tasks
    shapes: frozenset[tuple[Any, ...]]
    wording: Wording
    untold: list[str]  # tasks that would not be found in a copy of their prompt and solution


@dataclasses.dataclass
class Finding:
    """What was found in one text. hits: reason -> tasks, in the problems' order."""

    hits: dict[str, list[str]]
    parsed: bool
    functions: int
    shares_words: bool  # 13 words of a prompt


def load_held_out(file: str) -> HeldOut:
    """Reads problems: a file, or a built-in benchmark.

    A row's field "renderings", where there is one, lists other ways to write the solution. Raises UserError naming
    file and problem where a solution is missing or has no function.
    """
    _, problems = load_problems(file)
    fingerprints: dict[str, list[str]] = defaultdict(list)
    shapes = set()
    for problem in problems:
        for source in _solutions(problem, file):
            tree = parse(source)
            found = [] if tree is None else list(syntax.functions(tree))
            # In the prompt helpers may stand before it; a rendering may have another name.
            chosen = [f for f in found if f.name == problem.entry_point] or found[-1:]
            if not chosen:
                raise UserError(f"{file}: {problem.task_id}: no function in its solution or a rendering; mend the line")
            key, nodes = syntax.fingerprint(chosen[0])
            if nodes >= LEAST_NODES:
                shapes.add(syntax.shape(chosen[0]))
                fingerprints[key].append(problem.task_id)
    tasks = [p.task_id for p in problems]
    held_out = HeldOut(tasks, dict(fingerprints), frozenset(shapes), wording(problems), [])
    for problem in problems:
        hits = inspect(f"{problem.prompt}{problem.reference}", held_out, prose=True).hits
        if not any(problem.task_id in found for found in hits.values()):
            held_out.untold.append(problem.task_id)
    return held_out


def _solutions(problem: Problem, file: str) -> list[str]:
    if problem.reference is None:
        raise UserError(f"{file}: {problem.task_id} has no canonical_solution; without it nothing can be compared")
    return [problem.prompt + problem.reference, *problem.row.get("renderings", ())]


def inspect(text: str, held_out: HeldOut, *, prose: bool) -> Finding:
    """Compares a text's functions and words with what is held out; of Markdown the blocks of Python, together.

    prose: 13 words of a docstring in common are a hit.
    """
    tree = parse(text)
    if tree is None and (blocks := _python_blocks(text)):
        tree = parse("\n".join(blocks))
    count = 0
    same_syntax: list[str] = []
    for function in syntax.functions(tree) if tree is not None else ():
        count += 1
        if syntax.shape(function) in held_out.shapes:
            try:
                same_syntax += held_out.fingerprints.get(syntax.fingerprint(function)[0], ())
            except RecursionError:  # deeper than any solution
                continue
    words = held_out.wording.overlap(text)
    hits = {}
    for reason, tasks in zip(REASONS, (same_syntax, words.said + (words.prose if prose else [])), strict=True):
        if tasks:
            hits[reason] = [task for task in held_out.tasks if task in tasks]
    return Finding(hits, tree is not None, count, bool(words.prompts))


def _python_blocks(text: str) -> Sequence[str]:
    """The fenced blocks of a Markdown text that are Python, whatever they are called."""
    return [f.content for f in fences(text) if f.content.strip() and parse(f.content) is not None]
