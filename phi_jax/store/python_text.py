"""Python source as text: its syntax tree, where a node stands in it, where its code begins."""

from __future__ import annotations

import ast
import re
import warnings

_LEADING_COMMENTS = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)+")


def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None where this Python cannot parse the text. Doubtful escapes are not warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def span(source: str, node: ast.expr | ast.stmt | ast.arg | ast.keyword) -> tuple[int, int]:
    """Start and end of a node in its source, in characters; `ast` counts lines and UTF-8 bytes."""
    lines = source.split("\n")

    def offset(line: int, column: int) -> int:
        before = sum(len(text) + 1 for text in lines[: line - 1])
        return before + len(lines[line - 1].encode()[:column].decode())

    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)


def from_first_code(text: str) -> str:
    """The text behind the comments and blank lines it opens with, most often a licence."""
    match = _LEADING_COMMENTS.match(text)
    return text[match.end() :] if match else text
