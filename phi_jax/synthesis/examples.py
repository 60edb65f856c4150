"""Examples in docstrings and sessions, as doctest reads them, for confined.py to run."""

from __future__ import annotations

import ast
import doctest
import warnings

from phi_jax.synthesis.confined import Example

_PARSER = doctest.DocTestParser()


def parsed(code: str) -> ast.Module:
    """The tree of code that an LLM wrote. Raises ValueError with a reason of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return ast.parse(code)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"does not parse: {error.msg}{where}") from None
    except (ValueError, UnicodeError, RecursionError, MemoryError) as error:
        raise ValueError(f"does not parse: {error or type(error).__name__}") from None


def examples_of(text: str) -> list[Example]:
    """The examples behind ">>>" in a docstring or session. Raises ValueError with a reason of one line."""
    found: list[Example] = []
    for example in _PARSER.get_examples(text, "text"):
        options = example.options
        if options.get(doctest.SKIP):
            continue
        anything, spaces = options.get(doctest.ELLIPSIS, False), options.get(doctest.NORMALIZE_WHITESPACE, False)
        found.append((example.source, example.want, example.exc_msg, anything, spaces))
    return found


def docstring_examples(tree: ast.Module) -> list[list[Example]]:
    """The examples of each docstring in the code that has some. Raises ValueError with a reason of one line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            examples = examples_of(ast.get_docstring(node, clean=False) or "")
            if examples:
                found.append(examples)
    return found
