"""How alike the syntax trees of two functions are: the AST match rate of the paper's Table 3.

The paper (section 5.2) gives no formula, only an edit distance between ASTs as strings that sees neither names, nor
comments, nor docstrings. Ours: a function is written as the nodes of its AST in the order in which they contain and
follow each other, a letter for each, and

    rate = 1 - Levenshtein distance of the two strings / length of the longer one

So 1.0 is the same code but for the names of functions, arguments and variables, docstrings, annotations and decorators,
and in a function of 20 nodes one node more, less or other makes it 0.95. As in syntax.py, builtins, attributes,
keywords of calls and constants count. One algorithm written in two ways is not alike.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Hashable, Iterable

import numpy as np

from phi_jax.contamination.syntax import BUILTINS, AnyFunction

_WORDS = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr", ast.keyword: "arg", ast.Constant: "value",
          ast.ImportFrom: "module", ast.alias: "name"}  # fmt: skip
_LEFT_OUT = ("ctx", "annotation", "returns", "decorator_list")


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
        highest = zip(rates_FxR.max(0, initial=0).tolist(), self._tasks, strict=True)
        return {task: rate for rate, task in sorted(pair for pair in highest if pair[0] >= lowest)}

    def _written(self, function: AnyFunction) -> str:
        # A node that is in no reference is like none of them, so all of these may share a letter.
        return "".join([self._letters.get(node, "\0") for node in _nodes(function)])


def _nodes(function: AnyFunction) -> list[Hashable]:
    """What counts of each node."""
    found, bound, stack = list[tuple[type, object]](), set[object](), list[object]([function])
    while stack:
        node = stack.pop()
        kind = type(node)
        if isinstance(node, list):
            stack += reversed(node)
        # Else it is no node, or a docstring.
        elif isinstance(node, ast.AST) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            word = getattr(node, _WORDS.get(kind, ""), None)
            found.append((kind, word))
            if kind is ast.arg or (isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)):
                bound.add(word)
            stack += [getattr(node, field) for field in reversed(node._fields) if field not in _LEFT_OUT]
    builtins = BUILTINS - bound
    return [
        (kind, type(word), word) if word in builtins or kind not in (ast.Name, ast.arg) else kind
        for kind, word in found
    ]
