"""The fenced blocks of a Markdown text: where they are, in which language, and what is in them."""

import re
from typing import NamedTuple

# Any indentation: in a list item a fence is as deep as the item's text.
_OPENING = re.compile(r"^([ \t]*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*\{?\.?([\w+#-]*)")


class Fence(NamedTuple):
    """One fenced block. Lines are counted from 0; `first` is the opening fence's, `last` the closing one's."""

    first: int
    last: int  # the text's last line where nothing closes it
    language: str  # the first word behind the opening fence, in lower case
    content: str  # without the indentation of the opening fence; ends with a line break unless empty
    closed: bool


def fences(text: str) -> list[Fence]:
    """The fenced blocks of the text, in order."""
    lines = text.split("\n")
    found = []
    number = 0
    while number < len(lines):
        opening = _OPENING.match(lines[number])
        if opening is None:
            number += 1
            continue
        indent, fence, language = opening.groups()
        # As long as the opening one or longer, and nothing behind it; deeper, it is a line of the block.
        closing = re.compile(rf"^[ \t]{{0,{len(indent) + 3}}}{fence[0]}{{{len(fence)},}}[ \t\r]*$")
        end = number + 1
        while end < len(lines) and not closing.match(lines[end]):
            end += 1
        content = "".join(f"{_dedented(line, len(indent))}\n" for line in lines[number + 1 : end])
        found.append(Fence(number, min(end, len(lines) - 1), language.lower(), content, end < len(lines)))
        number = end + 1
    return found


def _dedented(line: str, most: int) -> str:
    """The line without as much of its leading white space as the opening fence has."""
    return line[min(most, len(line) - len(line.lstrip(" \t"))) :].removesuffix("\r")
