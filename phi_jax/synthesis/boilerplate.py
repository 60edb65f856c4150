"""Takes away what LLMs put around a text: "Sure! Here is ...", "In this section, we will ...", "I hope this helps!".

Such sentences stand in every reply, and teach a model to write them. The rules are data (boilerplate.json): whole
sentences at the beginning, below the title, and at the end. What stands between the first and the last fenced block is
not touched.
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
_TITLE = re.compile(r"\s*[ \t]{0,3}#{1,6}[ \t]([^\n]*)\n")
_BLANK = re.compile(r"(?:[ \t]*\r?\n)*")
_GAP = re.compile(r"(?:[ \t]*\r?\n)+|[ \t]*")
_RULER = r"[ \t]*(?:-{3,}|\*{3,}|_{3,})[ \t]*\r?(?:\n|$)"  # a line across the page
_EMPTY = re.compile(rf"\s*$|[ \t]{{0,3}}#{{1,6}}[ \t]|{_RULER}")  # a line that says nothing at the end of a text
_CLOSING_REACH = 800  # characters from the end


def without_boilerplate(text: str) -> str:
    """The text without opening and closing boilerplate, and without a line below the title that repeats it.

    A text that is nothing but boilerplate comes back as it was.
    """
    new = text
    while (shorter := _once(new)) != new:
        new = shorter
    return new if new.strip() else text


def _once(text: str) -> str:
    found = fences(text)
    if found:
        lines = text.split("\n")
        first, last = (sum(len(line) + 1 for line in lines[:n]) for n in (found[0].first, found[-1].last + 1))
        new = _without_opening(text[:first]) + text[first:last] + _without_closing(text[last:])
    else:
        new = _without_closing(_without_opening(text))
    # A fence behind a sentence in the same line is none; without the sentence it would be.
    return new if [fence.content for fence in fences(new)] == [fence.content for fence in found] else text


def _without_opening(prose: str) -> str:
    title = _TITLE.match(prose)
    rules = [_rules("opening")]
    if title and (name := title[1].strip("#* \t\r")):
        again = rf"[ \t]*(?:#+[ \t]+)?(?:\*\*)?{re.escape(name)}(?:\*\*)?[ \t#]*\r?(?=\n|$)"
        rules.append(re.compile(again, re.IGNORECASE))
    below = title.end() if title else 0
    while True:
        begin = _end(_BLANK, prose, below)
        found = next((match for rule in rules if (match := rule.match(prose, begin))), None)
        if found is None:
            return prose
        prose = prose[:begin] + prose[_end(_GAP, prose, found.end()) :]
        rules.append(re.compile(_RULER))  # a line across the page, below what went


def _end(pattern: re.Pattern[str], prose: str, begin: int) -> int:
    found = pattern.match(prose, begin)
    return found.end() if found else begin


def _without_closing(prose: str) -> str:
    kept = prose
    while found := _rules("closing").search(kept.rstrip(), max(0, len(kept.rstrip()) - _CLOSING_REACH)):
        kept = kept[: found.start()]
    if kept == prose:
        return prose
    lines = kept.rstrip().split("\n")
    while lines and _EMPTY.match(lines[-1]):
        lines.pop()  # a heading, or a line across the page, that has nothing below it any more
    return "\n".join(lines) + ("\n" if lines and prose.endswith("\n") else "")


@functools.cache
def _rules(place: str) -> re.Pattern[str]:
    """Any of the rules; those of "closing" begin where a sentence does, and reach to the end."""
    data = json.loads(Path(__file__).with_name("boilerplate.json").read_text(encoding="utf-8"))
    rule = "|".join(data[place])
    for macro, expression in _MACROS.items():
        rule = rule.replace(macro, expression)
    sentence = r"(?:^|(?<=\n)|(?<=[.!?][ \n]))(?=\S)"
    return re.compile(rf"{sentence}(?:{rule})\Z" if place == "closing" else rule, re.IGNORECASE)
