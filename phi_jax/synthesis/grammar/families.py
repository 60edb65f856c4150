"""The families of behaviours: what the built-in teacher can ask for, over lists, strings, numbers and dictionaries.

A family is a product of parts. Each behaviour is one small function, told in a sentence and written in code; "$0" and
"$1" stand for its parameters. Whether two behaviours are the same is found by running them (catalogue.py).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from phi_jax.synthesis.grammar.text_parts import (
    CHARACTER_CHANGES,
    CHARACTER_CONDITIONS,
    CHARACTER_RESULTS,
    DIGIT_CHANGES,
    DIGIT_CONDITIONS,
    GROUPS,
    KEYS,
    LARGEST,
    LIMITS,
    LIST_RESULTS,
    LISTED,
    NUMBER_CHANGES,
    NUMBER_CONDITIONS,
    NUMBER_RESULTS,
    ORDERS,
    PAIRS,
    SEPARATORS,
    SLICES,
    SUM,
    TEXT_PARTS,
    WORD_CHANGES,
    WORD_CONDITIONS,
    Part,
)

INTEGER, TEXT, NUMBERS, WORDS, TABLE = "int", "str", "list[int]", "list[str]", "dict[str,int]"
_NUMBER_CHOICES = {"c": NUMBER_CONDITIONS, "m": NUMBER_CHANGES}
_FOUR_RESULTS = (*NUMBER_RESULTS, LISTED)
_LOOP = "{r.start}\nfor x in $0:\n    if {c:x}:\n        {r.step:{m:x}}\nreturn {r.end}"


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """One thing that a function can do. It is defined by its body."""

    family: str
    signature: tuple[str, ...]  # types of the parameters: int, str, list[int], list[str], dict[str,int]
    slug: str  # name of the function: short, so that the docstring has to be read
    sentence: str  # what it returns, without "Return" and the full stop
    body: str  # lines of code, not indented
    explained: tuple[str, ...]  # what prose says about the code
    loop: str  # the same as a loop; "" where there is none

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The body as a function."""
        names = [f"argument_{number}" for number in range(len(self.signature))]
        body = self.body
        for number, name in enumerate(names):
            body = body.replace(f"${number}", name)
        namespace: dict[str, Any] = {}
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        exec(f"def function({', '.join(names)}):\n{lines}", namespace)
        return namespace["function"]


@dataclasses.dataclass(frozen=True)
class Family:
    """Behaviours of one form: format strings about `choices`, of which each combination without repeats is one."""

    name: str
    signature: tuple[str, ...]
    choices: Mapping[str, Sequence[Part]]
    slug: str
    sentence: str
    body: str
    explained: str  # "c:x": the prose explains what choice c is in code, about x
    loop: str = ""

    def behaviours(self) -> Iterator[Behaviour]:
        for chosen in itertools.product(*self.choices.values()):
            if len(set(chosen)) == len(chosen):
                parts = dict(zip(self.choices, chosen, strict=True))
                slug, sentence, body, loop = (
                    text.format(**parts) for text in (self.slug, self.sentence, self.body, self.loop)
                )
                explained = (each.split(":") for each in self.explained.split())
                told = tuple(f"`{parts[c]:{about}}` stands for {parts[c].phrase}" for c, about in explained)
                yield Behaviour(self.name, self.signature, slug, sentence, body, told, loop)


def _series(
    name: str, signature: str, head: str, plural: str, stem: str, choices: Mapping[str, Sequence[Part]]
) -> Family:
    """The values that meet a condition, each changed, and what is made of them. head: "for x in $0"."""
    x = head.split()[1]
    return Family(
        name, (signature,), choices, "{r.slug}_{c.slug}" + stem,
        f"{{r.phrase}} the {plural} that are {{c.phrase}}, each {{m.phrase}}",
        f"return {{r:{{m:{x}}} {head} if {{c:{x}}}}}",
        f"c:{x} m:{x}", _LOOP.replace("for x in $0", head).replace(":x}", f":{x}}}"),
    )  # fmt: skip


def _branches(
    name: str, signature: str, x: str, plural: str, conditions: Sequence[Part], changes: Sequence[Part]
) -> Family:
    """The values of a list, changed in one way if they meet a condition and in another if not."""
    return Family(
        name, (signature,), {"c": conditions, "m": changes, "n": changes}, "{m.slug}_if_{c.slug}",
        f"the {plural} in $0, each {{m.phrase}} if it is {{c.phrase}} and {{n.phrase}} if not",
        f"return [{{m:{x}}} if {{c:{x}}} else {{n:{x}}} for {x} in $0]",
        f"c:{x} m:{x} n:{x}",
        f"result = []\nfor {x} in $0:\n    if {{c:{x}}}:\n        result.append({{m:{x}}})\n"
        f"    else:\n        result.append({{n:{x}}})\nreturn result",
    )  # fmt: skip


def _pairs(name: str, signature: tuple[str, ...], zipped: str, what: str, stem: str) -> Family:
    """What is made of two numbers, where it meets a condition, and what is made of these."""
    return Family(
        name, signature, {"p": PAIRS, "c": NUMBER_CONDITIONS, "r": _FOUR_RESULTS}, "{r.slug}_{p.slug}" + stem,
        f"{{r.phrase}} the {{p.phrase}} of {what} that are {{c.phrase}}",
        f"pairs = [{{p}} for a, b in {zipped}]\nreturn {{r:x for x in pairs if {{c:x}}}}", "c:x",
    )  # fmt: skip


def _tables(of_to: str, item: str, place: str) -> Family:
    return Family(
        "number tables", (NUMBERS,), _NUMBER_CHOICES, "table_{c.slug}",
        f"a dictionary from {of_to}, for the numbers in $0 that are {{c.phrase}}",
        f"return {{{{{item} for x in $0 if {{c:x}}}}}}", "c:x m:x",
        f"result = {{{{}}}}\nfor x in $0:\n    if {{c:x}}:\n        {place}\nreturn result",
    )  # fmt: skip


def _groups(choices: Mapping[str, Sequence[Part]], what: str, empty: str, add: str, explained: str) -> Family:
    return Family(
        "groups", (WORDS,), {"c": WORD_CONDITIONS, "g": GROUPS, **choices}, "group_by_{g.slug}",
        f"a dictionary from each {{g.phrase}} to {what} in $0 with it that are {{c.phrase}}",
        f"groups = {{{{}}}}\nfor w in $0:\n    if {{c:w}}:\n"
        f"        groups[{{g}}] = groups.get({{g}}, {empty}) + {add}\nreturn groups",
        explained,
    )  # fmt: skip


FAMILIES = (
    _series("list results", NUMBERS, "for x in $0", "numbers in $0", "", {**_NUMBER_CHOICES, "r": NUMBER_RESULTS}),
    _series("list changes", NUMBERS, "for x in $0", "numbers in $0", "", {**_NUMBER_CHOICES, "r": LIST_RESULTS}),
    _series(
        "ranges", INTEGER, "for i in range(1, $0 + 1)", "numbers from 1 to $0", "_to",
        {**_NUMBER_CHOICES, "r": (SUM, LARGEST, LISTED)},
    ),
    _series(
        "digits", INTEGER, "for d in map(int, str(abs($0)))", "digits of $0", "_digits",
        {"c": DIGIT_CONDITIONS, "m": DIGIT_CHANGES, "r": _FOUR_RESULTS},
    ),
    _series(
        "dictionary values", TABLE, "for v in $0.values()", "values of $0", "_values",
        {**_NUMBER_CHOICES, "r": NUMBER_RESULTS},
    ),
    Family(
        "list slices", (NUMBERS,), {"s": SLICES, "m": NUMBER_CHANGES, "r": _FOUR_RESULTS}, "{r.slug}_{s.slug}",
        "{r.phrase} {s.phrase} in $0, each {m.phrase}", "return {r:{m:x} for x in {s}}", "m:x",
        "{r.start}\nfor x in {s}:\n    {r.step:{m:x}}\nreturn {r.end}",
    ),
    Family(
        "list limits", (NUMBERS, INTEGER), {"c": LIMITS, "m": NUMBER_CHANGES, "r": _FOUR_RESULTS},
        "{r.slug}_{c.slug}", "{r.phrase} the numbers in $0 that are {c.phrase}, each {m.phrase}",
        "return {r:{m:x} for x in $0 if {c:x}}", "m:x", _LOOP,
    ),
    _pairs("two lists", (NUMBERS, NUMBERS), "zip($0, $1)", "the numbers in $0 and $1, pair by pair,", "_of_two"),
    _pairs("neighbours", (NUMBERS,), "zip($0, $0[1:])", "neighbours in $0", "_of_neighbours"),
    _branches("list branches", NUMBERS, "x", "numbers", NUMBER_CONDITIONS, NUMBER_CHANGES),
    Family(
        "number branches", (INTEGER,), {**_NUMBER_CHOICES, "n": NUMBER_CHANGES}, "{m.slug}_if_{c.slug}",
        "$0 {m.phrase} if it is {c.phrase}, and $0 {n.phrase} if not",
        "if {c:$0}:\n    return {m:$0}\nreturn {n:$0}", "c:$0 m:$0 n:$0",
    ),
    Family(
        "number chains", (INTEGER,), dict.fromkeys("amn", NUMBER_CHANGES), "{a.slug}_then_{m.slug}",
        "$0 first {a.phrase}, then {m.phrase}, then {n.phrase}",
        "$0 = {a:$0}\n$0 = {m:$0}\nreturn {n:$0}", "a:$0 m:$0 n:$0",
    ),
    Family(
        "first matches", (NUMBERS, INTEGER), _NUMBER_CHOICES, "first_{c.slug}",
        "the first number in $0 that is {c.phrase}, {m.phrase}, or $1 if there is none",
        "for x in $0:\n    if {c:x}:\n        return {m:x}\nreturn $1", "c:x m:x",
    ),
    _series(
        "word lists", WORDS, "for w in $0", "words in $0", "_words",
        {"c": WORD_CONDITIONS, "m": WORD_CHANGES, "r": LIST_RESULTS},
    ),
    _branches("word branches", WORDS, "w", "words", WORD_CONDITIONS, WORD_CHANGES),
    Family(
        "word joins", (TEXT,), {"c": WORD_CONDITIONS, "m": WORD_CHANGES, "s": SEPARATORS}, "join_{m.slug}",
        "the words of $0 that are {c.phrase}, each {m.phrase}, joined by {s.phrase}",
        'return "{s}".join({m:w} for w in $0.split() if {c:w})', "c:w m:w",
    ),
    Family(
        "character filters", (TEXT,), {"c": CHARACTER_CONDITIONS, "m": CHARACTER_CHANGES, "o": ORDERS},
        "{m.slug}_{c.slug}", "the characters of $0 that are {c.phrase}, each {m.phrase}{o.phrase}",
        'return "".join({m:c} for c in {o} if {c:c})', "c:c m:c",
    ),
    Family(
        "character branches", (TEXT,), {"c": CHARACTER_CONDITIONS, "m": CHARACTER_CHANGES, "n": CHARACTER_CHANGES},
        "{m.slug}_if_{c.slug}", "$0 with the characters that are {c.phrase} {m.phrase} and the others {n.phrase}",
        'return "".join({m:c} if {c:c} else {n:c} for c in $0)', "c:c m:c n:c",
    ),
    Family(
        "character counts", (TEXT,), {"c": CHARACTER_CONDITIONS, "t": TEXT_PARTS, "r": CHARACTER_RESULTS},
        "{r.slug}_{c.slug}", "{r.phrase} in {t.phrase} that are {c.phrase}",
        "return {r:c for c in {t} if {c:c}}", "c:c",
    ),
    Family(
        "dictionary changes", (TABLE,), {**_NUMBER_CHOICES, "k": KEYS}, "keep_{c.slug}",
        "a dictionary of the items of $0 whose value is {c.phrase}, each value {m.phrase}{k.phrase}",
        "return {{{k}: {m:v} for k, v in $0.items() if {c:v}}}", "c:v m:v",
        "result = {{}}\nfor k, v in $0.items():\n    if {c:v}:\n        result[{k}] = {m:v}\nreturn result",
    ),
    Family(
        "dictionary keys", (TABLE,), {"c": NUMBER_CONDITIONS, "m": WORD_CHANGES, "r": LIST_RESULTS},
        "{r.slug}_keys_{c.slug}", "{r.phrase} the keys of $0 whose value is {c.phrase}, each {m.phrase}",
        "return {r:{m:k} for k, v in $0.items() if {c:v}}", "c:v m:k",
        _LOOP.replace("x in $0", "k, v in $0.items()").replace("c:x", "c:v").replace("m:x", "m:k"),
    ),
    Family(
        "dictionary lookups", (TABLE,), {"c": WORD_CONDITIONS, "m": NUMBER_CHANGES, "r": (SUM, LARGEST, LISTED)},
        "{r.slug}_values_{c.slug}", "{r.phrase} the values of $0 whose key is {c.phrase}, each {m.phrase}",
        "return {r:{m:v} for k, v in $0.items() if {c:k}}", "c:k m:v",
        _LOOP.replace("x in $0", "k, v in $0.items()").replace("c:x", "c:k").replace("m:x", "m:v"),
    ),
    _tables("each number to the number {m.phrase}", "x: {m:x}", "result[x] = {m:x}"),
    _tables("each number {m.phrase} to the number", "{m:x}: x", "result[{m:x}] = x"),
    _groups({}, "the number of words", "0", "1", "c:w"),
    _groups({"m": WORD_CHANGES[:4]}, "the list of words, each {m.phrase},", "[]", "[{m:w}]", "c:w m:w"),
)  # fmt: skip


def all_behaviours() -> Iterator[Behaviour]:
    """Every combination of every family, some of them the same as others in what they do."""
    return itertools.chain.from_iterable(family.behaviours() for family in FAMILIES)
