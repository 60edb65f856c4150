"""Wrong versions of a solution that its tests have to notice.

Trivial bodies: `return None`, the first argument, each of up to three results that the solution gives in the tests, and
the empty value of the first one's type. Tests that pass with one of these show nothing about the function.

Mutants: one small change of the source each, as in mutation testing (DeMillo, Lipton and Sayward 1978, "Hints on
test data selection"). Some are equivalent to the solution, so not all can be asked for:

    boundary    < to <=, > to >=, and back       connective  and to or, and back
    equality    == to !=, in to not in, is to is not, and back
    arithmetic  + to -, * to +, / to *, // to *, % to *, ** to *, and back from - to +; in += and its like too
    constant    an integer or float one larger, True to False and back
    negation    the condition of if, while, a conditional expression or a comprehension
    statement   a call, an augmented assignment, break or continue left out
    call        min to max, any to all, sorted to list, upper to lower, startswith to endswith, and back
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from phi_jax.synthesis.llm.examples import parsed

MOST = 10  # mutants of one solution, trivial bodies aside

_TRIVIAL = (
    ("returns None", "None"),
    ("returns its first argument", "arguments[0] if arguments else next(iter(keywords.values()))"),
    ("always returns the same result (the first)", "_results[0]"),
    ("always returns the same result (the second)", "_results[1]"),
    ("always returns the same result (the third)", "_results[2]"),
    ("always returns the empty value of its type", "type(_results[0])()"),
)


def _pairs(text: str) -> dict[str, str]:
    """What stands there -> what takes its place, of "this that, these those"."""
    return dict(pair.split() for pair in text.split(", "))


_OPERATORS = {
    "boundary": _pairs("Lt LtE, LtE Lt, Gt GtE, GtE Gt"),
    "equality": _pairs("Eq NotEq, NotEq Eq, In NotIn, NotIn In, Is IsNot, IsNot Is"),
    "connective": _pairs("And Or, Or And"),
    "arithmetic": _pairs(
        "Add Sub, Sub Add, Mult Add, Div Mult, FloorDiv Mult, Mod Mult, Pow Mult, BitAnd BitOr, BitOr BitAnd, "
        "BitXor BitAnd, LShift RShift, RShift LShift"
    ),
}
_OTHER = {one: (kind, other) for kind, pairs in _OPERATORS.items() for one, other in pairs.items()}
_CALLS = _pairs(
    "min max, max min, any all, all any, sorted list, list sorted, upper lower, lower upper, startswith endswith, "
    "endswith startswith"
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OPERATIONS = (ast.Compare, ast.BinOp, ast.BoolOp, ast.UnaryOp)  # in brackets they stay one operand


@dataclasses.dataclass(frozen=True)
class Mutant:
    """The source with one change; all other text is as it was."""

    kind: str
    line: int  # of the change, from 1
    code: str


def trivial_bodies(name: str) -> list[tuple[str, str]]:
    """(what it does, a definition of `name` that does it). They use `_results`, as sandbox_checks.exercise gives it."""
    return [(what, f"def {name}(*arguments, **keywords):\n    return {result}\n") for what, result in _TRIVIAL]


def mutants(code: str, most: int = MOST) -> list[Mutant]:
    """At most so many mutants of the functions in `code`, of as many kinds as it has: the same everywhere.

    Raises ValueError for no code.
    """
    source = code.replace("\r\n", "\n").replace("\r", "\n").encode()
    lines = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    kinds: dict[str, list[Mutant]] = {}
    for definition in parsed(source.decode()).body:
        for kind, old, new in _changes(definition) if isinstance(definition, _DEFINITIONS) else ():
            start, end = lines[old.lineno - 1] + old.col_offset, lines[old.end_lineno - 1] + old.end_col_offset
            text = f"({ast.unparse(new)})" if isinstance(new, _OPERATIONS) else ast.unparse(new)
            changed = (source[:start] + text.encode() + source[end:]).decode()
            kinds.setdefault(kind, []).append(Mutant(kind, old.lineno, changed))
    # One of each kind, then the next of each: a function full of constants still has its conditions changed.
    turns = itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return list(itertools.islice(filter(None, itertools.chain.from_iterable(turns)), most))


def _changes(node: ast.AST) -> Iterator[tuple[str, Any, ast.AST]]:
    """(kind, what is replaced, its replacement) for the node and all in it; of definitions, for the body alone."""
    if isinstance(node, ast.JoinedStr | ast.pattern):
        return  # Python 3.11 does not know where the parts of an f-string stand; patterns take no expressions
    yield from _changes_of(node)
    for field, value in ast.iter_fields(node):
        if field != "annotation" and (field == "body" or not isinstance(node, _DEFINITIONS)):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _changes(child)


def _changes_of(node: ast.AST) -> Iterator[tuple[str, Any, ast.AST]]:
    """Those of this node itself, not of what is in it."""
    match node:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                kind, other = _other(op)
                yield kind, node, _with(node, ops=[*ops[:place], other, *ops[place + 1 :]])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op).__name__ in _OTHER:
            kind, other = _other(op)
            yield kind, node, _with(node, op=other)
        case ast.Constant(value=bool() | int() | float() as value):
            yield "constant", node, ast.Constant(not value if isinstance(value, bool) else value + 1)
        case ast.Name(id=name, ctx=ast.Load()) if name in _CALLS:
            yield "call", node, _with(node, id=_CALLS[name])
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in _CALLS:
            yield "call", node, _with(node, attr=_CALLS[name])
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) | ast.comprehension(ifs=[test, *_]):
            # Of an equality, "equality" is the negation already.
            if not (isinstance(test, ast.Compare) and _other(test.ops[0])[0] == "equality"):
                yield "negation", test, ast.UnaryOp(ast.Not(), test)
    if isinstance(node, ast.AugAssign | ast.Break | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "statement", node, ast.Pass()


def _other(op: ast.AST) -> tuple[str, ast.AST]:
    """(kind, the operator that takes this one's place)"""
    kind, name = _OTHER[type(op).__name__]
    return kind, getattr(ast, name)()


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    vars(changed).update(fields)
    return changed
