"""Reads code that a language model wrote, and the examples in its docstrings and sessions, as doctest reads them."""

import ast
import doctest
import tokenize
import warnings

from phi_jax.synthesis.llm.sandbox_checks import Example

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError)  # what reading code may raise


def parsed(code: str, what: str = "the code") -> ast.Module:
    """The tree of the code. Raises one of UNREADABLE; a SyntaxError names `what`."""
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(code, what)


def examples_of(text: str, what: str) -> list[Example]:
    """The examples behind ">>>" in a docstring or session. Raises ValueError, which names `what`."""
    return [(e.source, e.want, e.exc_msg) for e in doctest.DocTestParser().get_examples(text, what)]


def docstring_examples(tree: ast.Module, what: str) -> list[list[Example]]:
    """The examples of each docstring that has some. Raises ValueError, which names `what`."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented))
    return [found for docstring in docstrings if (found := examples_of(docstring or "", what))]
