"""The `static` grader: what a parser can see of a file's value to somebody who learns basic coding concepts.

The paper asks GPT-4 for a file's "educational value for a student whose goal is to learn basic coding concepts"
(section 2.1). It publishes neither the rest of the prompt nor the scale of the answers. This rubric stands in for a
language model where there is none: it reads the syntax tree, knows nothing about meaning, and is called `static`
wherever its grades show.
"""

from __future__ import annotations

import ast
import builtins
import collections
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phi_jax.store.python_text import parse

# The one place of the weights; ours. They sum to 1. Comments that are not docstrings count nowhere, since a grader
# that likes them teaches a filter to look for them alone (Stack-Edu's classifier did).
WEIGHTS: Mapping[str, float] = {
    "docstrings": 0.25,  # functions and classes that say what they do
    "self_contained": 0.20,  # runs and can be understood without other packages or files
    "computation": 0.30,  # loops, branches, arithmetic, against declarations, tables and assertions
    "size": 0.10,  # lines of code in the range of a lesson
    "names": 0.15,  # identifiers that are words
}
PARTS = tuple(WEIGHTS)

_DOCSTRING_WORDS = 8  # words from which a docstring counts in full; more earn nothing
_MODULE_SHARE = 0.15  # of the part `docstrings` that the module's own docstring makes
_LINES = (2, 20, 300, 1500)  # lines of code at which `size` is 0, 1, 1 and 0 again
_TABLE_ENTRY = 0.25  # boilerplate in a constant of a container or of a call, against 1 for a statement
_PLAIN_CALL = 0.5  # boilerplate in a statement that only calls something
_TEST_PENALTY = 0.8  # of the part `computation` that a file loses where all functions are tests
_SHORT_NAMES = {0: 0.0, 1: 0.0, 2: 0.5}  # letters of a name -> its worth; longer names are worth 1
_LONG_NAME = 40  # letters from which a name is worth half

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_COMPUTING = (
    ast.For, ast.AsyncFor, ast.While, ast.If, ast.IfExp, ast.comprehension, ast.BinOp, ast.BoolOp, ast.Compare,
    ast.AugAssign, ast.Yield, ast.YieldFrom, ast.Match,
)  # fmt: skip
_BOILERPLATE = (ast.Pass, ast.Global, ast.Nonlocal, ast.Assert)
_BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__", "__doc__", "__path__", "__spec__"}
_CONVENTIONAL = frozenset({"self", "cls", "_", "__"})


@dataclasses.dataclass(frozen=True)
class Grade:
    """What a grader says of one file.

    value: 0 (worthless to the student) to 1. parts: the rubric's parts, each 0 to 1. reason: why a file was given 0
    without being weighed, else None.
    """

    value: float
    parts: Mapping[str, float]
    reason: str | None = None


def grade(text: str) -> Grade:
    """The `static` grade of a Python file: the sum of WEIGHTS times the parts. Never raises for what a text holds."""
    tree = parse(text)
    nodes = _Nodes(tree) if tree else None
    if nodes is None or not nodes.lines:
        return Grade(0.0, dict.fromkeys(PARTS, 0.0), "no code" if nodes else "does not parse")
    parts = {
        "docstrings": _documented(nodes),
        "self_contained": _self_contained(nodes),
        "computation": _computation(nodes),
        "size": _size(len(nodes.lines)),
        "names": _names(nodes),
    }
    return Grade(round(sum(WEIGHTS[name] * value for name, value in parts.items()), 6), parts)


class _Nodes:
    """The nodes of a syntax tree by their type, docstrings aside. lines: numbers of the lines that code begins on."""

    def __init__(self, tree: ast.Module) -> None:
        self.by_type: dict[type, list[Any]] = collections.defaultdict(list)
        self.docstrings: dict[Any, str] = {}  # of modules, classes and functions
        self.lines: set[int] = set()
        passed_over: set[ast.AST] = set()
        for node in ast.walk(tree):  # what is around a node comes before it
            if isinstance(node, (ast.Module, *_DEFINITIONS)):
                match node.body[:1]:
                    case [ast.Expr(ast.Constant(str() as said) as constant) as statement]:
                        self.docstrings[node] = said
                        passed_over |= {statement, constant}
            if node not in passed_over:
                self.by_type[type(node)].append(node)
                if isinstance(node, ast.expr | ast.stmt):
                    self.lines.add(node.lineno)

    def of(self, *kinds: type) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.by_type.get(kind, ()) for kind in kinds)

    def count(self, *kinds: type) -> int:
        return sum(len(self.by_type.get(kind, ())) for kind in kinds)


# --- The parts -----------------------------------------------------------------------------------------------------


def _documented(nodes: _Nodes) -> float:
    """Mean credit of the docstrings of functions and classes, and of the module's own."""

    def credit(node: Any) -> float:
        return min(1.0, len(nodes.docstrings.get(node, "").split()) / _DOCSTRING_WORDS)

    mean = _mean([credit(node) for node in nodes.of(*_DEFINITIONS)])
    return (1 - _MODULE_SHARE) * mean + _MODULE_SHARE * credit(next(nodes.of(ast.Module)))


def _self_contained(nodes: _Nodes) -> float:
    """Half: the share of imports that are of the standard library; half: the share of names that are bound here."""
    known = set(_BUILTINS)
    foreign: set[str] = set()
    imports: list[bool] = []
    for node in nodes.of(ast.Import):
        for alias in node.names:
            own = alias.name.partition(".")[0] in sys.stdlib_module_names
            imports.append(own)
            (known if own else foreign).add((alias.asname or alias.name).partition(".")[0])
    for node in nodes.of(ast.ImportFrom):
        own = not node.level and (node.module or "").partition(".")[0] in sys.stdlib_module_names
        if node.module != "__future__":
            imports.append(own and node.names[0].name != "*")  # what a star brings cannot be seen from here
        (known if own else foreign).update(alias.asname or alias.name for alias in node.names)
    known.update(node.name for node in nodes.of(*_DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar))
    known.update(node.arg for node in nodes.of(ast.arg))
    known.update(node.id for node in nodes.of(ast.Name) if not isinstance(node.ctx, ast.Load))
    used = [node.id for node in nodes.of(ast.Name) if isinstance(node.ctx, ast.Load)]
    return 0.5 * _mean(imports, 1.0) + 0.5 * _mean([name in known and name not in foreign for name in used], 1.0)


def _computation(nodes: _Nodes) -> float:
    """Constructs that compute, as a share of them and of boilerplate; tests count against a file."""
    plain = (ast.Constant, ast.Name, ast.Attribute, type(None))
    computing = nodes.count(*_COMPUTING) + sum(not isinstance(node.value, plain) for node in nodes.of(ast.Return))
    if not computing:
        return 0.0
    boilerplate = float(nodes.count(*_BOILERPLATE))
    boilerplate += sum(len(node.names) for node in nodes.of(ast.Import, ast.ImportFrom))
    boilerplate += sum(isinstance(n.value, ast.Constant | None) for n in nodes.of(ast.Assign, ast.AnnAssign))
    for statement in nodes.of(ast.Expr):
        match statement.value:
            case ast.Constant():
                boilerplate += 1
            case ast.Call(ast.Name(name) | ast.Attribute(attr=name)) if name.startswith("assert"):
                boilerplate += 1
            case ast.Call():
                boilerplate += _PLAIN_CALL
    # Only an error's name or none: nothing is worked out.
    boilerplate += sum(isinstance(node.exc, ast.Name | None) for node in nodes.of(ast.Raise))
    entries = [entry for node in nodes.of(ast.List, ast.Tuple, ast.Set) for entry in node.elts]
    entries += [entry for node in nodes.of(ast.Dict) for entry in (*node.keys, *node.values)]
    entries += [keyword.value for node in nodes.of(ast.Call) for keyword in node.keywords]
    boilerplate += _TABLE_ENTRY * sum(map(_is_constant, entries))
    # Attributes of a class are declarations, whatever stands to the right.
    members = (child for node in nodes.of(ast.ClassDef) for child in node.body)
    boilerplate += sum(isinstance(child, ast.Assign | ast.AnnAssign) for child in members)

    tests = _mean([node.name.startswith("test") for node in nodes.of(*_FUNCTIONS)])
    return (1 - _TEST_PENALTY * tests) * computing / (computing + boilerplate)


def _size(lines: int) -> float:
    """1 for a lesson's worth of lines of code, less for fewer or more."""
    nothing, enough, plenty, too_much = _LINES
    return max(0.0, min(1.0, (lines - nothing) / (enough - nothing), (too_much - lines) / (too_much - plenty)))


def _names(nodes: _Nodes) -> float:
    """Mean worth of the distinct names that the file gives; what a loop or comprehension counts with is free."""
    loops = nodes.of(ast.For, ast.AsyncFor, ast.comprehension)
    counters = {name for node in loops for name in ast.walk(node.target)}
    given = {node.name for node in nodes.of(*_DEFINITIONS)}
    given.update(node.arg for node in nodes.of(ast.arg))
    given.update(n.id for n in nodes.of(ast.Name) if isinstance(n.ctx, ast.Store) and n not in counters)
    given.update(node.attr for node in nodes.of(ast.Attribute) if isinstance(node.ctx, ast.Store))
    return _mean([_worth(name) for name in given - _CONVENTIONAL])


def _worth(name: str) -> float:
    letters = sum(character.isalpha() for character in name)
    return 0.5 if letters >= _LONG_NAME else _SHORT_NAMES.get(letters, 1.0)


def _is_constant(node: ast.AST | None) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _mean(values: Sequence[float], of_none: float = 0.0) -> float:
    return sum(values) / len(values) if values else of_none
