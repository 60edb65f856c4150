"""The fenced blocks of a Markdown text: where they are, in which language, and what is in them."""

import re
from typing import NamedTuple

# Any indentation: in a list item a fence is as deep as the item's text.
_OPENING = re.compile(r"^([ \t]*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*\{?\.?([\w+#-]*)")


class Fence(NamedTuple):
    """One fenced block."""

    first: int  # the line of the opening fence, counted from 0
    language: str  # the first word behind the opening fence, in lower case
    content: str  # without the indentation of the opening fence; ends with a line break unless empty
    closed: bool


def fences(text: str) -> list[Fence]:
    """The fenced blocks of the text, in order."""
    found, lines = [], enumerate(text.split("\n"))
    for first, line in lines:
        opening = _OPENING.match(line)
        if opening is None:
            continue
        indent, fence, language = opening.groups()
        # As long as the opening one or longer, and nothing behind it; deeper, it is a line of the block.
        closing = re.compile(rf"^[ \t]{{0,{len(indent) + 3}}}{fence[0]}{{{len(fence)},}}[ \t\r]*$")
        content, closed = [], False
        for _, inside in lines:
            if closed := closing.match(inside) is not None:
                break
            # Without as much of its leading white space as the opening fence has.
            margin = min(len(indent), len(inside) - len(inside.lstrip(" \t")))
            content.append(inside[margin:].removesuffix("\r") + "\n")
        found.append(Fence(first, language.lower(), "".join(content), closed))
    return found
