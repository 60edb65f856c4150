"""The `static` grader: what a parser can see of a file's value to somebody who learns basic coding concepts.

The paper asks GPT-4 for a file's "educational value for a student whose goal is to learn basic coding concepts"
(section 2.1). It publishes neither the rest of the prompt nor the scale of the answers. This rubric stands in for a
language model where there is none. It counts nodes of the syntax tree: how much is documented, how much is imported
from elsewhere, how much computes, how long the file is. It knows nothing about meaning, correctness or clarity, and is
called `static` wherever its grades show.

On the 112 files of tests/acceptance/hand_grades.jsonl, which one person graded 0, 1 or 2, its ROC AUC is 0.91 for a
grade of 1 and up, 0.89 for 2 (12 files). The parts and their weights were chosen on these same files, so this says how
well it fits them; on other files it will do worse.
"""

import ast
import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from phi_jax.store.python_text import parse

# The one place of the weights, which are ours and sum to 1. Comments that are not docstrings count nowhere, since a
# grader that likes them teaches a filter to look for them alone (Stack-Edu's classifier did).
WEIGHTS = {
    "docstrings": 0.3,  # functions and classes that say what they do
    "self_contained": 0.2,  # share of what is imported that is of the standard library
    "computation": 0.4,  # loops, branches, arithmetic, against declarations, tables, calls and assertions
    "size": 0.1,  # lines of code in the range of a lesson
}

_DOCSTRING_WORDS = 8  # words from which a docstring counts in full; more earn nothing
_MODULE_SHARE = 0.15  # of the part `docstrings` that the module's own docstring makes
_LINES = (2, 20, 300, 1500)  # lines of code at which `size` is 0, 1, 1 and 0 again
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_CODE = (ast.stmt, ast.expr)
_COMPUTING = (
    ast.For, ast.AsyncFor, ast.While, ast.If, ast.IfExp, ast.comprehension, ast.BinOp, ast.BoolOp, ast.Compare,
    ast.AugAssign, ast.Yield, ast.YieldFrom, ast.Match,
)  # fmt: skip
_NOTHING_WORKED_OUT = (ast.Constant, ast.Name, ast.Attribute, type(None))  # where a `return` returns it
_BOILERPLATE = {ast.alias: 1.0, ast.Assert: 1.0, ast.Constant: 0.5, ast.Expr: 0.5}  # against 1 for what computes


class Grade(NamedTuple):
    """What a grader says of one file.

    value: 0 (worthless to the student) to 1. parts: the rubric's parts, each 0 to 1; none where there is a reason.
    reason: why a file was given 0 without being weighed, else None.
    """

    value: float
    parts: Mapping[str, float]
    reason: str | None = None


def grade(text: str) -> Grade:
    """The `static` grade of a Python file: the sum of WEIGHTS times the parts. Never raises for what a text holds."""
    tree = parse(text)
    if tree is None:
        return Grade(0.0, {}, "does not parse")
    credits = []  # of the docstrings, the module's own first; they count nowhere else
    nodes: Counter[type] = Counter()
    lines = set()  # that code begins on
    imported = []  # modules; "" = of the file's own package
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        if isinstance(node, _DOCUMENTED):
            docstring = ast.get_docstring(node)
            credits.append(min(1.0, len((docstring or "").split()) / _DOCSTRING_WORDS))
            if docstring is not None:
                del node.body[0]
        waiting.extend(ast.iter_child_nodes(node))
        nodes[type(node)] += 1
        if isinstance(node, _CODE):
            lines.add(node.lineno)
        match node:
            case ast.Import(names):
                imported += [alias.name for alias in names]
            case ast.ImportFrom(module, level=level) if module != "__future__":
                imported.append("" if level else module or "")
            case ast.Return(value) if not isinstance(value, _NOTHING_WORKED_OUT):
                nodes[ast.BinOp] += 1
    if not lines:
        return Grade(0.0, {}, "no code")
    computing = sum(nodes[kind] for kind in _COMPUTING)
    boilerplate = sum(weight * nodes[kind] for kind, weight in _BOILERPLATE.items())
    nothing, enough, plenty, too_much = _LINES
    size = min(1.0, (len(lines) - nothing) / (enough - nothing), (too_much - len(lines)) / (too_much - plenty))
    parts = {
        "docstrings": _MODULE_SHARE * credits[0] + (1 - _MODULE_SHARE) * _mean(credits[1:], 0.0),
        "self_contained": _mean([m.partition(".")[0] in sys.stdlib_module_names for m in imported], 1.0),
        "computation": computing / (computing + boilerplate) if computing else 0.0,
        "size": max(0.0, size),
    }
    return Grade(round(sum(WEIGHTS[name] * value for name, value in parts.items()), 6), parts)


def _mean(values: Sequence[float], of_none: float) -> float:
    return sum(values) / len(values) if values else of_none
