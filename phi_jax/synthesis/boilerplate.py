"""Takes away what LLMs put around a text: "Sure! Here is ...", "In this section, we will ...", "I hope this helps!".

Such sentences stand in every reply, and teach a model to write them. The rules are data (openings.json): whole
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
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]")
_LINE = re.compile(r"[ \t]*(?:-{3,}|\*{3,}|_{3,})[ \t]*\r?(?:\n|$)")  # drawn across the page
_BLANK = re.compile(r"(?:[ \t]*\r?\n)*")
_SENTENCE = re.compile(r"(?:^|(?<=\n)|(?<=[.!?][ \n]))(?=\S)")
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
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    first = starts[found[0].first] if found else len(text)
    behind = found[-1].last + 1 if found else 0
    last = starts[behind] if behind < len(starts) else len(text)
    new = _opened(text[:first]) + text[first:last] + _closed(text[last:]) if found else _closed(_opened(text))
    # A fence behind a sentence in the same line is none; without the sentence it would be.
    same = [fence.content for fence in fences(new)] == [fence.content for fence in found]
    return new if same else text


def _opened(prose: str) -> str:
    """Without boilerplate at the beginning."""
    kept, title = "", None
    removed = False
    while True:
        blank = _BLANK.match(prose)
        assert blank is not None
        above, rest = blank.group(), prose[blank.end() :]
        line, drawn = rest.split("\n", 1)[0], _LINE.match(rest)
        if title is None and _HEADING.match(line):
            title = _title(line)
            kept, prose = kept + above + rest[: len(line) + 1], rest[len(line) + 1 :]
            continue
        if title and _title(line) == title:
            end = len(line)
        elif drawn and removed:
            end = drawn.end()
        else:
            sentence = next((m for rule in _rules()["opening"] if (m := rule.match(rest))), None)
            if sentence is None:
                return kept + prose
            end = sentence.end()
        prose, removed = above + _without_gap(rest[end:]), True


def _title(line: str) -> str:
    """What a heading, or a line in bold, says."""
    return line.strip().strip("#").strip().removeprefix("**").removesuffix("**").casefold()


def _without_gap(prose: str) -> str:
    """Without the spaces, or the blank lines, in front."""
    blank = _BLANK.match(prose)
    assert blank is not None
    return prose[blank.end() :] if blank.end() else prose.lstrip(" \t")


def _closed(prose: str) -> str:
    """Without boilerplate at the end."""
    whole = prose
    while True:
        body = prose.rstrip()
        for sentence in _SENTENCE.finditer(body, max(0, len(body) - _CLOSING_REACH)):
            if any(rule.fullmatch(body, sentence.start()) for rule in _rules()["closing"]):
                prose = body[: sentence.start()]
                break
        else:
            break
    if prose == whole:
        return whole
    lines = prose.rstrip().split("\n")
    while lines and (_HEADING.match(lines[-1]) or _LINE.match(lines[-1]) or not lines[-1].strip()):
        lines.pop()  # a heading, or a line across the page, that has nothing below it any more
    kept = "\n".join(lines)
    return kept + "\n" if kept and whole.endswith("\n") else kept


@functools.cache
def _rules() -> dict[str, list[re.Pattern[str]]]:
    data = json.loads(Path(__file__).with_name("openings.json").read_text(encoding="utf-8"))
    return {
        place: [re.compile(_spelled_out(rule), re.IGNORECASE) for rule in data[place]]
        for place in ("opening", "closing")
    }


def _spelled_out(rule: str) -> str:
    for macro, expression in _MACROS.items():
        rule = rule.replace(macro, expression)
    return rule
