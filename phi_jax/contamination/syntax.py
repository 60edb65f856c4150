"""Functions of a Python text, and their ASTs modulo names.

Two functions have one fingerprint when they differ in nothing but the names of functions, arguments and variables,
docstrings, annotations, decorators and layout. Builtins, attributes, keywords of calls and constants count.
"""

from __future__ import annotations

import ast
import builtins
import copy
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

# Without what `site` and an interactive session add.
BUILTINS = frozenset(dir(builtins)) - {"exit", "quit", "copyright", "credits", "license", "_"}
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
_OBJECTS = ("self", "cls", "mcs")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LEFT_OUT = ("ctx", "annotation", "returns", "type_comment")  # fields
_BLOCKS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With,
    ast.AsyncWith, ast.Try, ast.TryStar, ast.ExceptHandler, ast.Match, ast.match_case,
)  # fmt: skip
_NAME_FIELDS: dict[type[ast.AST], str] = {
    ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.ClassDef: "name",
    ast.ExceptHandler: "name", ast.MatchAs: "name", ast.MatchStar: "name", ast.MatchMapping: "rest",
    ast.alias: "asname",
}  # fmt: skip


def functions(tree: ast.Module) -> Iterator[AnyFunction]:
    """Every `def` of a text, in order: top level, in classes, in other functions, in any block.

    A method that does not use its object comes without it, as the function that it could be.
    """
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, in_class = stack.pop()
        if isinstance(node, AnyFunction):
            yield _without_object(node) if in_class else node
        inside = isinstance(node, ast.ClassDef) or (in_class and not isinstance(node, AnyFunction))
        children = [
            (child, inside)
            for field in ("body", "handlers", "orelse", "finalbody", "cases")
            for child in getattr(node, field, ())
            if isinstance(child, _BLOCKS)
        ]
        stack += reversed(children)


def _without_object(node: AnyFunction) -> AnyFunction:
    first = (node.args.posonlyargs + node.args.args)[:1]
    if not first or first[0].arg not in _OBJECTS:
        return node
    if any(isinstance(n, ast.Name) and n.id == first[0].arg for n in ast.walk(node)):
        return node
    bare = copy.copy(node)
    bare.args = copy.copy(node.args)
    field = "posonlyargs" if node.args.posonlyargs else "args"
    setattr(bare.args, field, getattr(node.args, field)[1:])
    return bare


def _body(node: AnyFunction | ast.ClassDef) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def shape(node: AnyFunction) -> tuple[Any, ...]:
    """What functions of one fingerprint have in common and costs next to nothing to look at."""
    args = node.args
    statements = (type(s) for s in _body(node) if not isinstance(s, ast.AnnAssign | ast.Assign))
    positional = len(args.posonlyargs) + len(args.args)
    return positional, len(args.kwonlyargs), args.vararg is None, args.kwarg is None, *statements


def fingerprint(node: AnyFunction) -> tuple[str, int]:
    """(hash of the function's AST modulo names, its size in AST nodes). Raises RecursionError for a very deep one."""
    bare = copy.copy(node)
    bare.decorator_list = []
    nameless = _Nameless(_bound(bare))
    text = nameless.text(bare)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16], nameless.size


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that are assigned, defined or imported anywhere inside."""
    for inner in ast.walk(node):
        field = _NAME_FIELDS.get(type(inner))
        if field and not (isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)):
            yield getattr(inner, field) or getattr(inner, "name", None) or ""


class _Nameless:
    """Writes a tree down: names are numbered in the order in which they appear, docstrings and annotations left out."""

    def __init__(self, bound: Iterable[str]) -> None:
        # Lambdas and comprehensions have scopes of their own: a name used in two of them is two names.
        self._scopes = [dict.fromkeys(bound, "")]
        self._count = 0
        self.size = 0  # nodes

    def text(self, node: Any) -> str:
        """A node, a list of nodes, or a value."""
        if isinstance(node, list):
            kept = (n for n in node if not (isinstance(n, ast.AnnAssign) and n.value is None))
            return f"[{', '.join(map(self.text, kept))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        self.size += 1
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            node = ast.Assign(targets=[node.target], value=node.value)
        fields = {name: value for name, value in ast.iter_fields(node) if name not in _LEFT_OUT}
        if isinstance(node, AnyFunction | ast.ClassDef):
            fields["body"] = _body(node)
        own = _own_names(node)
        if own is not None:
            self._scopes.append(dict.fromkeys(own, ""))
        if isinstance(node, ast.Global | ast.Nonlocal):
            fields["names"] = [self._renamed(name) for name in node.names]
        if isinstance(node, ast.alias):
            fields["asname"] = node.asname or node.name.partition(".")[0]
        name_field = _NAME_FIELDS.get(type(node), "")
        if fields.get(name_field):
            fields[name_field] = self._renamed(fields[name_field])
        inside = [f"{name}={self.text(value)}" for name, value in fields.items() if value is not None]
        if own is not None:
            self._scopes.pop()
        return f"{type(node).__name__}({', '.join(inside)})"

    def _renamed(self, name: str) -> str:
        scope = next((s for s in reversed(self._scopes) if name in s), None)
        if scope is None:
            if name in BUILTINS:
                return name
            scope = self._scopes[0]
        if not scope.get(name):
            scope[name] = f"${self._count}"
            self._count += 1
        return scope[name]


def _own_names(node: ast.AST) -> list[str] | None:
    """Names of the scope that a lambda or a comprehension opens; None for anything else."""
    if isinstance(node, ast.Lambda):
        return [a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)]
    if isinstance(node, _COMPREHENSIONS):
        return [n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)]
    return None
