"""Typing errors and grammar errors in a prompt's prose."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial

from phi_jax.evaluation.perturb.prose import Edit, Prose, Site, in_case_of, one_of, rewritten
from phi_jax.evaluation.problems import Problem

SHORTEST = 3  # letters of a word that may be misspelt

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """The keys beside, above and below each letter of a QWERTY keyboard, whose rows are each shifted by a half key."""
    keys = {key: (x + 0.5 * y, y) for y, row in enumerate(_ROWS) for x, key in enumerate(row)}
    return {
        key: "".join(other for other, (u, v) in keys.items() if other != key and abs(u - x) <= 1 and abs(v - y) <= 1)
        for key, (x, y) in keys.items()
    }


NEIGHBOURS = _neighbours()

AGREEMENT = {
    "return": "returns", "returns": "return", "take": "takes", "takes": "take", "contain": "contains",
    "contains": "contain", "is": "are", "are": "is", "has": "have", "have": "has", "was": "were", "were": "was",
    "does": "do", "do": "does", "find": "finds", "finds": "find", "give": "gives", "gives": "give",
    "accepts": "accept", "receives": "receive", "checks": "check", "check": "checks", "write": "writes",
    "calculate": "calculates", "calculates": "calculate", "compute": "computes", "computes": "compute",
    "determine": "determines", "convert": "converts", "count": "counts", "create": "creates", "implement": "implements",
    "remove": "removes", "sort": "sorts", "starts": "start", "ends": "end", "appears": "appear", "appear": "appears",
    "exists": "exist", "exist": "exists", "equals": "equal", "belongs": "belong", "represents": "represent",
    "consists": "consist", "filter": "filters", "evaluates": "evaluate", "satisfies": "satisfy", "reads": "read",
}  # fmt: skip
PREPOSITIONS = {
    "in": "on", "on": "in", "of": "from", "from": "of", "to": "at", "at": "to", "by": "with", "with": "by",
    "for": "to", "into": "in", "between": "among",
}  # fmt: skip


def typos(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Misspells each word of three letters or more at a chance of `rate`.

    A letter becomes one beside it on the keyboard, changes places with the next, goes missing or comes twice; the first
    stays. Code, examples, quotes, numbers and names stay.
    """
    return rewritten(problem, "typos", _misspellings, rate, seed)


def grammar(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Makes a grammar error at each place for one, at a chance of `rate`.

    An article or comma goes missing, a verb stops agreeing, a preposition becomes another, a sentence starts small.
    Where several fit one word, the draw takes one.
    """
    return rewritten(problem, "grammar", _errors, rate, seed)


def _misspellings(prose: Prose) -> list[Site]:
    return [partial(_misspell, word, prose.names) for word in prose.words() if len(word.group()) >= SHORTEST]


def _misspell(word: re.Match[str], names: frozenset[str], rng: random.Random) -> Sequence[Edit]:
    return [(*word.span(), misspelt(word.group(), names, rng))]


def misspelt(word: str, names: frozenset[str], rng: random.Random) -> str:
    """The word with one typing error: never itself, and none of `names`."""
    kinds = rng.sample(("neighbour", "swap", "drop", "double"), 4)
    for kind in kinds:
        i = rng.randrange(1, len(word) - (kind == "swap"))
        if kind == "neighbour":
            found = word[:i] + rng.choice(NEIGHBOURS[word[i].lower()]) + word[i + 1 :]
        elif kind == "swap":
            found = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        elif kind == "drop":
            found = word[:i] + word[i + 1 :]
        else:
            found = word[:i] + word[i] + word[i:]
        if found != word and found not in names:
            return found
    return word + word[-1]


def _errors(prose: Prose) -> list[Site]:
    """In the order of the text, so that a site's number, and with it its draw, does not depend on the tables' order."""
    found: list[tuple[int, list[Edit]]] = []
    for match in prose.words():
        options = list(_errors_of_word(prose.text, match))
        if options:
            found.append((match.start(), options))
    for comma in re.finditer(r"(?<=[A-Za-z]),(?=\s+[A-Za-z])", prose.text):
        if prose.free(*comma.span()):
            found.append((comma.start(), [(*comma.span(), "")]))
    return [partial(one_of, options) for _, options in sorted(found)]


def _errors_of_word(text: str, match: re.Match[str]) -> Sequence[Edit]:
    word, (start, end) = match.group(), match.span()
    options: list[Edit] = []
    blank = re.match(r" +(?=[A-Za-z])", text[end:])
    if word.lower() in ("a", "an", "the") and blank:
        options.append((start, end + blank.end(), ""))
    for table in (AGREEMENT, PREPOSITIONS):
        if word.lower() in table:
            options.append((start, end, in_case_of(word, table[word.lower()])))
    before = text[:start].rstrip()
    if word[0].isupper() and len(word) > 1 and (not before or before[-1] in ".!?:"):
        options.append((start, end, word.lower()))
    return options
