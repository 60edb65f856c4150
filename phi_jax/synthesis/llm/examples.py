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
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, SyntaxError) and error.lineno:
            reason = f"{error.msg}, line {error.lineno}"
        raise ValueError(f"{what} does not parse: {reason}") from None


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
