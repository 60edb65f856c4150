"""Reads code that a language model wrote, and the examples in its docstrings and sessions, as doctest reads them."""

from __future__ import annotations

import ast
import doctest
import warnings

from phi_jax.synthesis.llm.sandbox_checks import Example


def parsed(code: str, what: str = "the code") -> ast.Module:
    """The tree of the code. Raises ValueError with a reason that names `what`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"{what} does not parse: {error.msg}{where}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{what} does not parse: {error or type(error).__name__}") from None


def examples_of(text: str, what: str) -> list[Example]:
    """The examples behind ">>>" in a docstring or session. Raises ValueError with a reason that names `what`."""
    try:
        return [(e.source, e.want, e.exc_msg) for e in doctest.DocTestParser().get_examples(text)]
    except ValueError as error:
        raise ValueError(f"{what}: an example cannot be read: {error}") from None


def docstring_examples(tree: ast.Module, what: str) -> list[list[Example]]:
    """The examples of each docstring that has some. Raises ValueError with a reason that names `what`."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented))
    return [found for docstring in docstrings if (found := examples_of(docstring or "", what))]


def uses_sets(*trees: ast.AST) -> bool:
    """Whether the code may hold a set, so that what it gives may depend on the order of one."""
    return any(
        isinstance(node, ast.Set | ast.SetComp) or (isinstance(node, ast.Name) and node.id in ("set", "frozenset"))
        for tree in trees
        for node in ast.walk(tree)
    )
