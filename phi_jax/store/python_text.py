"""Python source as text: its syntax tree, where its code begins."""

import ast
import gc
import re
import warnings

_LEADING_COMMENTS = re.compile(r"\A(?:[ \t\f]*(?:#[^\n]*)?\n)+")


def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None where this Python cannot parse the text. Doubtful escapes are not warned of."""
    # The collector would look through the nodes again and again, none of which is garbage: a quarter of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    finally:
        if collecting:
            gc.enable()


def from_first_code(text: str) -> str:
    """The text behind the comments and blank lines it opens with, most often a licence."""
    return _LEADING_COMMENTS.sub("", text)
