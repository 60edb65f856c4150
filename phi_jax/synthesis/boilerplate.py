"""Takes away what LLMs put around a text: "Sure! Here is ...", "In this section, we will ...", "I hope this helps!".

Such sentences stand in every reply, and teach a model to write them. The rules are data (boilerplate.json): whole
sentences at the beginning, below the title, and at the end. Fenced blocks are not touched.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from phi_jax.store.markdown import fences

_MACROS = {
    # Full stops within a sentence: `a.b`, 3.11, "e.g."; a line break within one has a word behind it.
    "<words>": r"(?:[^.!?:\n]|[.!?:](?=\S)|(?<=\be\.g)\.|(?<=\bi\.e)\.|\n(?=[A-Za-z`\"'(])){0,300}?",
    "<end>": r"(?<!\be\.g)(?<!\bi\.e)[.!](?=\s|$)",
    "<colon>": r"(?<!\be\.g)(?<!\bi\.e)[.!:](?=\s|$)",
}
_RULER = r"[ \t]*(?:-{3,}|\*{3,}|_{3,})[ \t]*\r?(?:\n|$)"  # a line across the page
_GAP = r"(?:(?:[ \t]*\r?\n)+|[ \t]*)"
_OPENING = (
    r"\A((?:\s*#{1,6}[ \t][ \t#*]*(?P<title>[^\s#*][^\n]*?)[ \t\r#*]*\n)?(?:[ \t]*\r?\n)*)"  # this stays
    r"(?:(?:<rules>|[ \t]*(?:#+[ \t]+)?(?:\*\*)?(?P=title)(?:\*\*)?[ \t#]*\r?(?=\n|\Z))"  # or the title once more
    rf"{_GAP}(?:{_RULER}{_GAP})*)+"
)
_CLOSING = (
    rf"\s*(?:(?m:^)(?:[ \t]{{0,3}}#{{1,6}}[ \t][^\n]*\n|{_RULER})\s*)*"  # headings that have nothing below them then
    r"(?:(?:^|(?<=\n)|(?<=[.!?][ \n]))(?:<rules>)\s*?)+(\n?)\Z"
)
_CLOSING_REACH = 800  # characters from the end


def without_boilerplate(text: str) -> str:
    """The text without opening and closing boilerplate, and without a line below the title that repeats it.

    A text that is nothing but boilerplate comes back as it was.
    """
    opening, closing = _patterns()
    before, new = "", text
    while new != before:
        before = new
        new = _cut(new, opening.match(new))
        new = _cut(new, closing.search(new, max(0, len(new) - _CLOSING_REACH)))
    return new if new.strip() else text


def _cut(text: str, found: re.Match[str] | None) -> str:
    """The text with the first group in the place of the match; as it was where that changes a fenced block."""
    if found is None:
        return text
    new = text[: found.start()] + found[1] + text[found.end() :]
    blocks, there = ([(fence.content, fence.closed) for fence in fences(each)] for each in (new, text))
    return new if blocks == there else text


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(what is cut at the beginning, what is cut at the end)"""
    data = json.loads(Path(__file__).with_name("boilerplate.json").read_text(encoding="utf-8"))
    opening = _OPENING.replace("<rules>", "|".join(data["opening"]))
    closing = _CLOSING.replace("<rules>", "|".join(data["closing"]))
    for macro, expression in _MACROS.items():
        opening, closing = (rule.replace(macro, expression) for rule in (opening, closing))
    return re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE)
