"""How alike the syntax trees of two functions are: the AST match rate of the paper's Table 3.

The paper (section 5.2) gives no formula, only an edit distance between ASTs as strings that sees neither names, nor
comments, nor docstrings. Ours: a function is written as the nodes of its AST in the order in which they contain and
follow each other, a letter for each, and

    rate = 1 - Levenshtein distance of the two strings / length of the longer one

So 1.0 is the same code but for the names of functions, arguments and variables, docstrings, annotations and decorators,
and in a function of 20 nodes one node more, less or other makes it 0.95. As in syntax.py, builtins, attributes,
keywords of calls and constants count. One algorithm written in two ways is not alike.
"""

import ast
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from phi_jax.contamination.syntax import BUILTINS, AnyFunction

_WORDS = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr", ast.keyword: "arg", ast.Constant: "value",
          ast.ImportFrom: "module", ast.alias: "name"}  # fmt: skip
_LEFT_OUT = ("ctx", "annotation", "returns", "decorator_list")
# Kind of node -> its fields that are looked into, the last first.
_FIELDS = {
    kind: [field for field in reversed(kind._fields) if field not in _LEFT_OUT]
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}


class Matcher:
    """Functions that others are compared with. Pickled, it gives the same rates."""

    def __init__(self, references: Iterable[tuple[str, AnyFunction]]) -> None:
        """references: (task, a function that solves it)."""
        self._tasks, functions = zip(*references, strict=True)
        different = dict.fromkeys(itertools.chain.from_iterable(map(_nodes, functions)))
        self._letters = {node: chr(letter) for letter, node in enumerate(different, 1)}
        self._references = [self._written(function) for function in functions]

    def rates(self, functions: Iterable[AnyFunction], lowest: float) -> dict[str, float]:
        """Task -> the highest match rate of a function with a reference, where it is `lowest` or more; in (0, 1]."""
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist

        rates_FxR = cdist(
            [self._written(function) for function in functions], self._references,
            scorer=Levenshtein.normalized_similarity, score_cutoff=lowest, dtype=np.float64,
        )  # fmt: skip
        rates_R = rates_FxR.max(0, initial=0)
        found = sorted((float(rates_R[n]), self._tasks[n]) for n in np.flatnonzero(rates_R >= lowest))
        return {task: rate for rate, task in found}

    def _written(self, function: AnyFunction) -> str:
        # A node that is in no reference is like none of them, so all of these may share a letter.
        return "".join([self._letters.get(node, "\0") for node in _nodes(function)])


def _nodes(function: AnyFunction) -> list[Any]:
    """What counts of each node: its kind, or (kind, type of its word, word)."""
    found, bound, stack = list[Any](), set[str](), list[Any]([function])
    while stack:
        node = stack.pop()
        kind = type(node)
        if kind is list:
            stack += node[::-1]
            continue
        fields = _FIELDS.get(kind)
        if fields is None or (kind is ast.Expr and isinstance(node.value, ast.Constant)):  # no node; a docstring
            continue
        if kind in _WORDS:
            word = getattr(node, _WORDS[kind])
            if kind is ast.arg or (kind is ast.Name and not isinstance(node.ctx, ast.Load)):
                bound.add(word)
            found.append((kind, type(word), word))
        else:
            found.append(kind)
        stack += [getattr(node, field) for field in fields]
    builtins = BUILTINS - bound
    names = (ast.Name, ast.arg)
    return [n if type(n) is type or n[0] not in names or n[2] in builtins else n[0] for n in found]
