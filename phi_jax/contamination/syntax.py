"""Functions of a Python text, and their ASTs modulo names.

Two functions have one fingerprint when they differ in nothing but the names of functions, arguments and variables,
docstrings, annotations, decorators and layout. Builtins, attributes, keywords of calls and constants count.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

# Without what `site` and an interactive session add.
BUILTINS = frozenset(dir(builtins)) - {"exit", "quit", "copyright", "credits", "license", "_"}
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_OBJECTS = ("self", "cls", "mcs")
_SCOPES = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
_BLOCKS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With,
    ast.AsyncWith, ast.Try, ast.TryStar, ast.ExceptHandler, ast.Match, ast.match_case,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Function:
    """A function definition; `method`: it stands in a class and its first parameter is called self or cls."""

    node: AnyFunction
    method: bool


@dataclasses.dataclass
class Names:
    """What a function binds, reads and imports, nested functions included; annotations and decorators are not."""

    bound: set[str] = dataclasses.field(default_factory=set)
    read: set[str] = dataclasses.field(default_factory=set)
    modules: set[str] = dataclasses.field(default_factory=set)  # imported inside the function, "" for a relative import
    attributes: set[str] = dataclasses.field(default_factory=set)
    assigns_attributes: bool = False
    yields: bool = False


def parse(text: str) -> ast.Module | None:
    """The text's tree; None where it is not Python 3, or nested deeper than the parser goes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def functions(tree: ast.Module) -> Iterator[Function]:
    """Every `def` of a text, in order: top level, in classes, in other functions, in any block."""
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, in_class = stack.pop()
        if isinstance(node, _FUNCTIONS):
            first = positional(node)[:1]
            yield Function(node, in_class and bool(first) and first[0].arg in _OBJECTS)
            in_class = False
        elif isinstance(node, ast.ClassDef):
            in_class = True
        inside = [
            (child, in_class)
            for field in ("body", "handlers", "orelse", "finalbody", "cases")
            for child in getattr(node, field, ())
            if isinstance(child, _BLOCKS)
        ]
        stack += reversed(inside)


def positional(node: AnyFunction) -> list[ast.arg]:
    """Parameters that a call may fill by position, but for *args."""
    return node.args.posonlyargs + node.args.args


def body_of(node: AnyFunction | ast.ClassDef) -> list[ast.stmt]:
    """The body without its docstring."""
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return node.body[1:]
    return node.body


def names_of(node: AnyFunction, stop: str | None = None) -> Names:
    """The function's names. Scopes are merged: a name bound anywhere in it counts as bound in all of it.

    Once the name `stop` is read, nobody needs the rest, and it is left out.
    """
    found = Names(bound={node.name})
    stack: list[Any] = [node.args, *body_of(node)]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is ast.Name:
            if type(item.ctx) is not ast.Load:
                found.bound.add(item.id)
                continue
            found.read.add(item.id)
            if item.id == stop:
                return found
            continue
        if kind is ast.Constant:
            continue
        if kind is ast.Attribute:
            found.attributes.add(item.attr)
            found.assigns_attributes |= type(item.ctx) is not ast.Load
            stack.append(item.value)
            continue
        if kind is ast.arg:
            found.bound.add(item.arg)
            continue
        if kind is ast.AnnAssign:
            stack.append(item.target)
            if item.value is not None:
                stack.append(item.value)
            continue
        if kind in _FUNCTIONS:
            found.bound.add(item.name)
            stack += [item.args, *item.decorator_list, *item.body]
            continue
        if kind is ast.Import:
            found.modules.update(alias.name for alias in item.names)
            found.bound.update((alias.asname or alias.name).partition(".")[0] for alias in item.names)
        elif kind is ast.ImportFrom:
            found.modules.add("" if item.level else item.module)
            found.bound.update(alias.asname or alias.name for alias in item.names)
        elif kind is ast.ClassDef or (kind in (ast.ExceptHandler, ast.MatchAs, ast.MatchStar) and item.name):
            found.bound.add(item.name)
        elif kind is ast.MatchMapping and item.rest:
            found.bound.add(item.rest)
        elif kind in (ast.Yield, ast.YieldFrom):
            found.yields = True
        _push_children(item, stack)
    return found


def _push_children(item: ast.AST, stack: list[Any]) -> None:
    for field in item._fields:
        value = getattr(item, field, None)
        if type(value) is list:
            stack += [child for child in value if isinstance(child, ast.AST)]
        elif isinstance(value, ast.AST):
            stack.append(value)


def is_generator(node: AnyFunction) -> bool:
    """Whether a call gives a generator."""
    stack: list[Any] = list(node.body)
    while stack:
        item = stack.pop()
        if isinstance(item, ast.Yield | ast.YieldFrom):
            return True
        if isinstance(item, ast.AST) and not isinstance(item, (*_FUNCTIONS, ast.Lambda, ast.ClassDef)):
            _push_children(item, stack)
    return False


def shape(function: Function) -> tuple[Any, ...]:
    """What equal fingerprints have in common and costs next to nothing to look at; a method's object is left out."""
    args = function.node.args
    return (
        len(positional(function.node)) - function.method,
        len(args.kwonlyargs),
        args.vararg is None,
        args.kwarg is None,
        tuple(type(s) for s in body_of(function.node) if not isinstance(s, ast.AnnAssign | ast.Assign)),
    )


def fingerprint(node: AnyFunction, names: Names) -> str:
    """Hash (16 hex digits) of the function's AST modulo names. Raises RecursionError for a very deep one."""
    return canonical(node, names)[0]


def canonical(node: AnyFunction, names: Names) -> tuple[str, dict[str, str]]:
    """The fingerprint, and how each name of the function's own scope was renamed."""
    writer = _Writer(names.bound)
    writer.function(node)
    digest = hashlib.sha256("".join(writer.parts).encode(errors="surrogatepass")).hexdigest()[:16]
    return digest, {name: new for name, new in writer.scopes[0].items() if new is not None}


class _Writer:
    """Writes a tree as text, names replaced in order of first appearance."""

    def __init__(self, bound: set[str]) -> None:
        self.parts: list[str] = []
        # Lambdas and comprehensions have scopes of their own: a name used in two of them is two names.
        self.scopes: list[dict[str, str | None]] = [dict.fromkeys(sorted(bound))]
        self._count = 0

    def _name(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                break
        else:
            if name in BUILTINS:
                return name
            scope = self.scopes[0]
        new = scope.get(name)
        if new is None:
            new = scope[name] = f"${self._count}"
            self._count += 1
        return new

    def _open(self, label: str, *items: Any) -> None:
        self.parts.append(f"({label}")
        for item in items:
            self.put(item)
        self.parts.append(")")

    def function(self, node: AnyFunction) -> None:
        self.parts.append(f"({type(node).__name__}{self._name(node.name)}")
        self.put(node.args)
        self.put(body_of(node))
        self.parts.append(")")

    def put(self, item: Any) -> None:
        kind = type(item)
        if kind is ast.Name:
            self.parts.append(f"{self._name(item.id)} ")
        elif kind is ast.Constant:
            self.parts.append(f"{type(item.value).__name__}={item.value!r} ")
        elif kind is ast.arg:
            self.parts.append(f"{self._name(item.arg)} ")
        elif kind is list:
            self.parts.append("[")
            for one in item:
                self.put(one)
            self.parts.append("]")
        elif kind in _FUNCTIONS:
            for decorator in item.decorator_list:
                self.put(decorator)
            self.function(item)
        elif kind is ast.ClassDef:
            self._open(f"class{self._name(item.name)}", item.bases, item.keywords, item.decorator_list, body_of(item))
        elif kind is ast.Assign:
            self._open("=", item.targets, item.value)
        elif kind is ast.AnnAssign:
            if item.value is not None:
                self._open("=", [item.target], item.value)
        elif isinstance(item, _SCOPES):
            self.scopes.append(dict.fromkeys(_own_names(item)))
            self._fields(item)
            self.scopes.pop()
        elif kind is ast.alias:
            self.parts.append(f"{item.name}>{self._name(item.asname or item.name.partition('.')[0])} ")
        elif kind in (ast.Global, ast.Nonlocal):
            self.parts.append(f"({kind.__name__}{','.join(map(self._name, item.names))})")
        elif kind in (ast.ExceptHandler, ast.MatchAs, ast.MatchStar):
            self.parts.append(f"{self._name(item.name) if item.name else '-'} ")
            self._fields(item, "name")
        elif kind is ast.MatchMapping:
            self.parts.append(f"{self._name(item.rest) if item.rest else '-'} ")
            self._fields(item, "rest")
        elif isinstance(item, ast.AST):
            self._fields(item)
        else:
            self.parts.append(f"{item!r} ")

    def _fields(self, item: ast.AST, *apart: str) -> None:
        skipped = (*apart, "ctx", "type_comment", "type_ignores")
        self._open(type(item).__name__, *(getattr(item, f, None) for f in item._fields if f not in skipped))


def _own_names(item: ast.AST) -> Sequence[str]:
    if isinstance(item, ast.Lambda):
        return [a.arg for a in ast.walk(item.args) if isinstance(a, ast.arg)]
    targets = [generator.target for generator in getattr(item, "generators", ())]
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
