"""Wrong versions of a solution that its tests have to notice.

Trivial bodies: `return None`, the first argument, each of up to three results that the solution gives in the tests, and
the empty value of the first one's type. Tests that pass with one of these show nothing about the function.

Mutants: one small change of the source each, as in mutation testing (DeMillo, Lipton and Sayward 1978, "Hints on test
data selection"). Some are equivalent to the solution, so not all can be asked for:

    boundary    < to <=, > to >=, and back       connective  and to or, and back
    equality    == to !=, in to not in, is to is not, and back
    arithmetic  + to -, * to +, / to *, // to *, % to *, ** to *, and back from - to +; in += and its like too
    constant    an integer or float one larger, True to False and back
    negation    the condition of if, while, a conditional expression or a comprehension
    statement   a call, an augmented assignment, break or continue left out
    call        min to max, any to all, sorted to list, upper to lower, startswith to endswith, and back

All are pure functions of the source: the same code has the same mutants everywhere.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from phi_jax.synthesis.examples import parsed

MOST = 10  # mutants of one solution, trivial bodies aside

_TRIVIAL = (
    ("returns None", "None"),
    ("returns its first argument", "arguments[0] if arguments else next(iter(keywords.values()))"),
    ("always returns the same result (the first)", "_results[0]"),
    ("always returns the same result (the second)", "_results[1]"),
    ("always returns the same result (the third)", "_results[2]"),
    ("always returns the empty value of its type", "type(_results[0])()"),
)

_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("boundary", "<="), ast.LtE: ("boundary", "<"), ast.Gt: ("boundary", ">="), ast.GtE: ("boundary", ">"),
    ast.Eq: ("equality", "!="), ast.NotEq: ("equality", "=="), ast.In: ("equality", "not in"),
    ast.NotIn: ("equality", "in"), ast.Is: ("equality", "is not"), ast.IsNot: ("equality", "is"),
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "&", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip
_SYMBOLS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in",
    ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip
_PAIRS = (("min", "max"), ("any", "all"), ("sorted", "list"), ("upper", "lower"), ("startswith", "endswith"))
_CALLS = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """The source with one change."""

    kind: str
    line: int  # of the change, from 1
    code: str


def trivial_bodies(name: str) -> list[tuple[str, str]]:
    """(what it does, a definition of `name` that does it). They use `_results`, as confined.exercise gives it."""
    return [(what, f"def {name}(*arguments, **keywords):\n    return {result}\n") for what, result in _TRIVIAL]


def mutants(code: str, most: int = MOST) -> list[Mutant]:
    """At most so many mutants of the functions in `code`, of as many kinds as it has. Raises ValueError for no code."""
    code = code.replace("\r\n", "\n").replace("\r", "\n")
    source = _Source(code)
    kinds: dict[str, list[Mutant]] = {}
    for edit in source.edits():
        mutant = source.edited(edit)
        if mutant.code != code:
            kinds.setdefault(mutant.kind, []).append(mutant)
    # One of each kind, then the next of each: a function full of constants still has its conditions changed.
    turns = itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return list(itertools.islice((m for turn in turns for m in turn if m is not None), most))


@dataclasses.dataclass(frozen=True)
class _Edit:
    kind: str
    start: int  # offset in bytes
    end: int
    replacement: str


class _Source:
    """Code, its tree, and where each node stands in it: a change keeps all other text as it is."""

    def __init__(self, code: str) -> None:
        self._bytes = code.encode()
        self._tree = parsed(code)
        self._lines = [0, *itertools.accumulate(len(line) for line in self._bytes.splitlines(keepends=True))]

    def edited(self, edit: _Edit) -> Mutant:
        new = self._bytes[: edit.start] + edit.replacement.encode() + self._bytes[edit.end :]
        return Mutant(edit.kind, self._bytes.count(b"\n", 0, edit.start) + 1, new.decode())

    def edits(self) -> Iterator[_Edit]:
        for node in self._tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from self._definition(node)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[_Edit]:
        """Of the body alone: decorators, parameters and annotations stay."""
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a docstring
            yield from self._node(statement)

    def _node(self, node: ast.AST) -> Iterator[_Edit]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from self._definition(node)
            return
        if isinstance(node, ast.JoinedStr | ast.pattern):
            return  # Python 3.11 does not know where the parts of an f-string stand; patterns take no expressions
        yield from self._changes(node)
        for field, child in ast.iter_fields(node):
            if field == "annotation":
                continue
            for each in child if isinstance(child, list) else [child]:
                if isinstance(each, ast.AST):
                    yield from self._node(each)

    def _changes(self, node: ast.AST) -> Iterator[_Edit]:
        """Of this node itself, not of what is in it."""
        if isinstance(node, ast.Compare):
            yield from self._compared(node)
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            yield self._edit(
                "arithmetic", node, f"({self._text(node.left)} {_ARITHMETIC[type(node.op)]} {self._text(node.right)})"
            )
        elif isinstance(node, ast.BoolOp):
            word = " or " if isinstance(node.op, ast.And) else " and "
            yield self._edit("connective", node, f"({word.join(map(self._text, node.values))})")
        elif isinstance(node, ast.Constant):
            yield from self._constant(node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _CALLS:
            yield self._edit("call", node, _CALLS[node.id])
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in _CALLS:
            end = self._span(node)[1]
            yield _Edit("call", end - len(node.attr.encode()), end, _CALLS[node.attr])
        elif isinstance(node, ast.AugAssign):
            if type(node.op) in _ARITHMETIC:
                target, value = self._span(node.target), self._text(node.value)
                changed = f"{self._bytes[slice(*target)].decode()} {_ARITHMETIC[type(node.op)]}= {value}"
                yield self._edit("arithmetic", node, changed)
            yield self._edit("statement", node, "pass")
        elif _can_be_dropped(node):
            yield self._edit("statement", node, "pass")
        for test in _conditions(node):
            # Of an equality, "equality" is the negation already.
            if not (isinstance(test, ast.Compare) and _COMPARISONS[type(test.ops[0])][0] == "equality"):
                yield self._edit("negation", test, f"(not {self._text(test)})")

    def _compared(self, node: ast.Compare) -> Iterator[_Edit]:
        parts = [self._text(part) for part in (node.left, *node.comparators)]
        for changed, changed_operator in enumerate(node.ops):
            kind, other = _COMPARISONS[type(changed_operator)]
            symbols = [other if i == changed else _SYMBOLS[type(op)] for i, op in enumerate(node.ops)]
            chain = " ".join(f"{symbol} {part}" for symbol, part in zip(symbols, parts[1:], strict=True))
            yield self._edit(kind, node, f"({parts[0]} {chain})")

    def _constant(self, node: ast.Constant) -> Iterator[_Edit]:
        if isinstance(node.value, bool):
            yield self._edit("constant", node, str(not node.value))
        elif isinstance(node.value, int | float):
            yield self._edit("constant", node, repr(node.value + 1))

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        """The node's source in parentheses, so that it stays one operand."""
        return f"({self._bytes[slice(*self._span(node))].decode()})"

    def _edit(self, kind: str, node: ast.AST, replacement: str) -> _Edit:
        return _Edit(kind, *self._span(node), replacement)


def _can_be_dropped(node: ast.AST) -> bool:
    return isinstance(node, ast.Break | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )


def _conditions(node: ast.AST) -> Sequence[ast.expr]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        return [node.test]
    return node.ifs if isinstance(node, ast.comprehension) else []
