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
_DOCUMENTED = (ast.Module, *_DEFINITIONS)
_COMPUTING = (
    ast.For, ast.AsyncFor, ast.While, ast.If, ast.IfExp, ast.comprehension, ast.BinOp, ast.BoolOp, ast.Compare,
    ast.AugAssign, ast.Yield, ast.YieldFrom, ast.Match,
)  # fmt: skip
_UNSEEN_FIELDS = frozenset({"ctx", "op", "ops"})  # of the syntax tree: half of its nodes, none of them weighed
_BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__", "__doc__", "__path__", "__spec__"}
Nodes = dict[type, list[Any]]  # nodes of a syntax tree by their type
_CONVENTIONAL = frozenset({"self", "cls", "_", "__"})


@dataclasses.dataclass(frozen=True)
class Grade:
    """What a grader says of one file.

    value: 0 (worthless to the student) to 1. parts: the rubric's parts, each 0 to 1; empty where the grader has
    none. reason: why a file was given 0 without being weighed, else None.
    """

    value: float
    parts: Mapping[str, float]
    reason: str | None = None


def grade(text: str) -> Grade:
    """The `static` grade of a Python file: the sum of WEIGHTS times the parts. Never raises for what a text holds."""
    tree = parse(text)
    if tree is None:
        return Grade(0.0, dict.fromkeys(PARTS, 0.0), "does not parse")
    nodes = _nodes(tree)
    lines = {node.lineno for kind, found in nodes.items() if issubclass(kind, ast.expr | ast.stmt) for node in found}
    if not lines:
        return Grade(0.0, dict.fromkeys(PARTS, 0.0), "no code")
    parts = {
        "docstrings": _documented(nodes),
        "self_contained": _self_contained(nodes),
        "computation": _computation(nodes),
        "size": _size(len(lines)),
        "names": _names(nodes),
    }
    return Grade(round(sum(WEIGHTS[name] * value for name, value in parts.items()), 6), parts)


def _nodes(tree: ast.Module) -> Nodes:
    """The nodes of a tree by their type, in no order, without docstrings and without operators."""
    found: Nodes = collections.defaultdict(list)
    fields: dict[type, list[str]] = {}
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        kind = type(node)
        if kind not in fields:
            fields[kind] = [name for name in node._fields if name not in _UNSEEN_FIELDS]
        found[kind].append(node)
        docstring = _docstring(node)
        for name in fields[kind]:
            value = getattr(node, name)
            if isinstance(value, list):
                stack.extend(child for child in value if isinstance(child, ast.AST) and child is not docstring)
            elif isinstance(value, ast.AST):
                stack.append(value)
    return found


def _of(nodes: Nodes, *kinds: type) -> Iterator[Any]:
    return itertools.chain.from_iterable(nodes.get(kind, ()) for kind in kinds)


def _docstring(node: Any) -> ast.Expr | None:
    """The statement that is the docstring of a module, class or function."""
    if isinstance(node, _DOCUMENTED) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            return first
    return None


# --- The parts -----------------------------------------------------------------------------------------------------


def _documented(nodes: Nodes) -> float:
    """Mean credit of the docstrings of functions and classes, and of the module's own."""

    def credit(node: Any) -> float:
        docstring: Any = _docstring(node)
        words = docstring.value.value.split() if docstring else ()
        return min(1.0, len(words) / _DOCSTRING_WORDS)

    credits = [credit(node) for node in _of(nodes, *_DEFINITIONS)]
    mean = sum(credits) / len(credits) if credits else 0.0
    return (1 - _MODULE_SHARE) * mean + _MODULE_SHARE * credit(nodes[ast.Module][0])


def _self_contained(nodes: Nodes) -> float:
    """Half: the share of imports that are of the standard library; half: the share of names that are bound here."""
    known = set(_BUILTINS)
    foreign: set[str] = set()
    imports: list[bool] = []
    for node in _of(nodes, ast.Import):
        for alias in node.names:
            own = alias.name.partition(".")[0] in sys.stdlib_module_names
            imports.append(own)
            (known if own else foreign).add((alias.asname or alias.name).partition(".")[0])
    for node in _of(nodes, ast.ImportFrom):
        own = not node.level and (node.module or "").partition(".")[0] in sys.stdlib_module_names
        if node.module != "__future__":
            imports.append(own and node.names[0].name != "*")  # what a star brings cannot be seen from here
        (known if own else foreign).update(alias.asname or alias.name for alias in node.names)
    known.update(node.name for node in _of(nodes, *_DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar))
    known.update(node.arg for node in _of(nodes, ast.arg))
    known.update(node.id for node in _of(nodes, ast.Name) if not isinstance(node.ctx, ast.Load))
    used = [node.id for node in _of(nodes, ast.Name) if isinstance(node.ctx, ast.Load)]
    bound = sum(name in known and name not in foreign for name in used)
    return 0.5 * _share(sum(imports), len(imports)) + 0.5 * _share(bound, len(used))


def _computation(nodes: Nodes) -> float:
    """Constructs that compute, as a share of them and of boilerplate; tests count against a file."""
    computing = float(sum(len(nodes.get(kind, ())) for kind in _COMPUTING))
    plain = (ast.Constant, ast.Name, ast.Attribute)
    computing += sum(not (node.value is None or isinstance(node.value, plain)) for node in _of(nodes, ast.Return))
    if not computing:
        return 0.0

    boilerplate = float(sum(len(nodes.get(kind, ())) for kind in (ast.Pass, ast.Global, ast.Nonlocal, ast.Assert)))
    boilerplate += sum(len(node.names) for node in _of(nodes, ast.Import, ast.ImportFrom))
    for node in _of(nodes, ast.Assign, ast.AnnAssign):
        boilerplate += node.value is None or isinstance(node.value, ast.Constant)
    for node in _of(nodes, ast.Expr):
        if isinstance(node.value, ast.Constant):
            boilerplate += 1
        elif isinstance(node.value, ast.Call):
            boilerplate += 1 if _called(node.value).startswith("assert") else _PLAIN_CALL
    for node in _of(nodes, ast.Raise):  # only an error's name or none: nothing is worked out
        boilerplate += node.exc is None or isinstance(node.exc, ast.Name)
    for node in _of(nodes, ast.List, ast.Tuple, ast.Set):
        boilerplate += _TABLE_ENTRY * sum(map(_is_constant, node.elts))
    for node in _of(nodes, ast.Dict):
        boilerplate += _TABLE_ENTRY * (sum(map(_is_constant, node.keys)) + sum(map(_is_constant, node.values)))
    for node in _of(nodes, ast.Call):
        boilerplate += _TABLE_ENTRY * sum(_is_constant(keyword.value) for keyword in node.keywords)
    for node in _of(nodes, ast.ClassDef):  # attributes of a class are declarations, whatever stands to the right
        boilerplate += sum(isinstance(child, ast.Assign | ast.AnnAssign) for child in node.body)

    functions = [node.name for node in _of(nodes, *_FUNCTIONS)]
    tests = sum(name.startswith("test") for name in functions)
    penalty = _TEST_PENALTY * tests / len(functions) if functions else 0.0
    return (1 - penalty) * computing / (computing + boilerplate)


def _size(lines: int) -> float:
    """1 for a lesson's worth of lines of code, less for fewer or more."""
    nothing, enough, plenty, too_much = _LINES
    return max(0.0, min(1.0, (lines - nothing) / (enough - nothing), (too_much - lines) / (too_much - plenty)))


def _names(nodes: Nodes) -> float:
    """Mean worth of the distinct names that the file gives; what a loop or comprehension counts with is free."""
    counters = {
        id(name) for node in _of(nodes, ast.For, ast.AsyncFor, ast.comprehension) for name in ast.walk(node.target)
    }
    given = {node.name for node in _of(nodes, *_DEFINITIONS)}
    given.update(node.arg for node in _of(nodes, ast.arg))
    stored = (node for node in _of(nodes, ast.Name) if isinstance(node.ctx, ast.Store))
    given.update(node.id for node in stored if id(node) not in counters)
    given.update(node.attr for node in _of(nodes, ast.Attribute) if isinstance(node.ctx, ast.Store))
    worth = [_worth(name) for name in given - _CONVENTIONAL]
    return sum(worth) / len(worth) if worth else 0.0


def _worth(name: str) -> float:
    letters = sum(character.isalpha() for character in name)
    return 0.5 if letters >= _LONG_NAME else _SHORT_NAMES.get(letters, 1.0)


def _called(call: ast.Call) -> str:
    """The last name of what is called, e.g. "assertEqual"."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _is_constant(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
