"""Functions of a Python text, and their ASTs modulo names.

Two functions have one fingerprint when they differ in nothing but the names of functions, arguments and variables,
docstrings, annotations, decorators and layout. Builtins, attributes, keywords of calls and constants count.
"""

import ast
import builtins
import hashlib
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

# Without what `site` and an interactive session add.
BUILTINS = frozenset(dir(builtins)) - {"exit", "quit", "copyright", "credits", "license", "_"}
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # fields of a statement in which a `def` can stand
_NAME_FIELDS = {
    ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.ClassDef: "name",
    ast.ExceptHandler: "name", ast.MatchAs: "name", ast.MatchStar: "name", ast.MatchMapping: "rest",
    ast.alias: "asname",
}  # fmt: skip


def functions(tree: ast.Module) -> Iterator[AnyFunction]:
    """Every `def` of a text, in order: top level, in classes, in other functions, in any block."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, AnyFunction):
            yield node
        stack += reversed([child for block in _BLOCKS for child in getattr(node, block, ())])


def _body(node: AnyFunction | ast.ClassDef) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def shape(node: AnyFunction) -> tuple[type, ...]:
    """What functions of one fingerprint have in common and costs next to nothing to look at."""
    found: list[type] = []
    for statement in _body(node):
        values = [type(getattr(statement, field, None)) for field in ("value", "test", "iter")]
        if not isinstance(statement, ast.AnnAssign):
            found += [type(statement), *values]
        elif statement.value is not None:
            found += [ast.Assign, *values]
    return tuple(found)


def fingerprint(node: AnyFunction) -> tuple[str, int]:
    """(hash of the function's AST modulo names, its size in AST nodes). Raises RecursionError for a very deep one.

    A method that does not use its object is taken as the function that it could be.
    """
    bare = pickle.loads(pickle.dumps(node, pickle.HIGHEST_PROTOCOL))  # a third of copy.deepcopy's time
    bare.decorator_list = []
    arguments = bare.args.posonlyargs or bare.args.args
    first = arguments[0].arg if arguments else ""
    used = {inner.id for inner in ast.walk(bare) if isinstance(inner, ast.Name)}
    if first in ("self", "cls", "mcs") and first not in used:
        del arguments[0]
    bare = _Nameless(bare).visit(bare)
    size = sum(not isinstance(inner, ast.expr_context) for inner in ast.walk(bare))
    return hashlib.sha256(ast.dump(bare).encode(errors="surrogatepass")).hexdigest()[:16], size


class _Nameless(ast.NodeTransformer):
    """Numbers names in the order in which they appear, and leaves docstrings and annotations out."""

    def __init__(self, tree: ast.AST) -> None:
        stored = (n for n in ast.walk(tree) if not (isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)))
        self._bound = {name for node in stored for name in (_name_of(node), getattr(node, "name", None)) if name}
        self._numbers: dict[str, str] = {}
        self._count = itertools.count()

    def visit(self, node: ast.AST) -> Any:
        match node:
            case ast.AnnAssign(value=None):
                return None
            case ast.AnnAssign(target, _, ast.expr() as value):
                return self.visit(ast.Assign(targets=[target], value=value))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                node.body, node.returns = _body(node), None
            case ast.ClassDef():
                node.body = _body(node)
            case ast.arg():
                node.annotation = None
            case ast.Global(names) | ast.Nonlocal(names):
                node.names = [self._number(name) for name in names]
            case ast.alias(module, None):
                node.asname = module.partition(".")[0]
        # Lambdas and comprehensions have scopes of their own: a name used in two of them is two names.
        own = _own_names(node)
        outer = {name: self._numbers.pop(name) for name in own if name in self._numbers}
        if name := _name_of(node):
            setattr(node, _NAME_FIELDS[type(node)], self._number(name))
        self.generic_visit(node)
        for name in own:
            self._numbers.pop(name, None)
        self._numbers |= outer
        return node

    def _number(self, name: str) -> str:
        if name in BUILTINS and name not in self._bound:
            return name
        if name not in self._numbers:
            self._numbers[name] = f"${next(self._count)}"
        return self._numbers[name]


def _name_of(node: ast.AST) -> str | None:
    """The name that a node binds or reads."""
    return getattr(node, _NAME_FIELDS.get(type(node), ""), None)


def _own_names(node: ast.AST) -> set[str]:
    """Names of the scope that a lambda or a comprehension opens."""
    match node:
        case ast.Lambda(arguments):
            return {a.arg for a in ast.walk(arguments) if isinstance(a, ast.arg)}
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            return {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
    return set()
