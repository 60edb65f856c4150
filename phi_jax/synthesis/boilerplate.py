"""Takes away what LLMs put around a text: "Sure! Here is ...", "In this section, we will ...", "I hope this helps!".

Such sentences stand in every reply, and teach a model to write them. The rules are data (boilerplate.json): whole
sentences at the beginning, below the title, and at the end.
"""

import functools
import json
import re
from pathlib import Path

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
_CLOSING_REACH = 800  # characters from the end: a search from further up would take long


def without_boilerplate(text: str) -> str:
    """The text without opening and closing boilerplate, and without a line below the title that repeats it.

    A text that is nothing but boilerplate comes back as it was.
    """
    opening, closing = _patterns()
    before, new = "", text
    while new != before:
        before, new = new, opening.sub(r"\1", new)
        if end := closing.search(new, max(0, len(new) - _CLOSING_REACH)):
            new = new[: end.start()] + end[1]
    return new if new.strip() else text


@functools.cache
def _patterns() -> list[re.Pattern[str]]:
    """[what is cut at the beginning, what is cut at the end]; the first group of each stays."""
    data = json.loads(Path(__file__).with_name("boilerplate.json").read_text(encoding="utf-8"))
    patterns = []
    for name, form in (("opening", _OPENING), ("closing", _CLOSING)):
        rules = form.replace("<rules>", "|".join(data[name]))
        for macro, expression in _MACROS.items():
            rules = rules.replace(macro, expression)
        patterns.append(re.compile(rules, re.IGNORECASE))
    return patterns
