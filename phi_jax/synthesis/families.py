"""The families of behaviours: what the built-in teacher can ask for, over lists, strings, numbers and dictionaries.

A family is a product of pieces. Each behaviour is one small function, told in a sentence and written in code; "$0" and
"$1" stand for its parameters. Whether two behaviours are the same is settled by running them (grammar.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, permutations, product
from typing import Any

from phi_jax.synthesis.pieces import (
    CHARACTER_CHANGES,
    CHARACTER_CONDITIONS,
    DIGIT_CHANGES,
    DIGIT_CONDITIONS,
    LARGEST,
    LIST_RESULTS,
    LISTED,
    NUMBER_CHANGES,
    NUMBER_CONDITIONS,
    NUMBER_RESULTS,
    SUM,
    WORD_CHANGES,
    WORD_CONDITIONS,
    Piece,
    Result,
    as_loop,
)

INTEGER, TEXT, NUMBERS, WORDS, TABLE = "int", "str", "list[int]", "list[str]", "dict[str,int]"


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """One thing that a function can do."""

    family: str
    signature: tuple[str, ...]  # types of the parameters: int, str, list[int], list[str], dict[str,int]
    slug: str  # name of the function: short, so that the docstring has to be read
    sentence: str  # what it returns, without "Return" and the full stop
    body: str  # lines of code, not indented
    function: Callable[..., Any]  # what the code must give
    explained: tuple[tuple[str, Piece], ...]  # (variable, piece): what prose explains
    loop: str = ""  # the same as a loop, where there is one


def _named(*parts: str) -> str:
    return "_".join(filter(None, parts))


# --- Series: the values that meet a condition, each changed, and what is made of them --------------------------


def _series(
    family: str,
    signature: tuple[str, ...],
    head: str,
    values: Callable[[Any], Any],
    plural: str,
    conditions: Sequence[Piece],
    changes: Sequence[Piece],
    results: Sequence[Result],
    stem: str = "",
) -> Iterator[Behaviour]:
    """head: "for x in $0". values: the series of an argument. plural: "numbers in $0"."""
    variable = head.split()[1]
    for condition, change, result in product(conditions, changes, results):
        value, test = change.of(variable), condition.of(variable)
        yield Behaviour(
            family,
            signature,
            _named(result.slug, condition.slug, stem),
            f"{result.phrase} the {plural} that are {condition.phrase}, each {change.phrase}",
            "return " + result.of(f"{value} {head} if {test}"),
            lambda a, c=condition, m=change, r=result: r.function([m.function(x) for x in values(a) if c.function(x)]),
            ((variable, condition), (variable, change)),
            as_loop(result, head, test, value),
        )


def _number_series() -> Iterator[Behaviour]:
    whole = (NUMBER_CONDITIONS, NUMBER_CHANGES)
    yield from _series("list results", (NUMBERS,), "for x in $0", list, "numbers in $0", *whole, NUMBER_RESULTS)
    yield from _series("list changes", (NUMBERS,), "for x in $0", list, "numbers in $0", *whole, LIST_RESULTS)
    yield from _series(
        "ranges", (INTEGER,), "for i in range(1, $0 + 1)", lambda n: range(1, n + 1), "numbers from 1 to $0", *whole,
        (SUM, LARGEST, LISTED), "to",
    )  # fmt: skip
    yield from _series(
        "digits", (INTEGER,), "for d in map(int, str(abs($0)))", lambda n: map(int, str(abs(n))), "digits of $0",
        DIGIT_CONDITIONS, DIGIT_CHANGES, (*NUMBER_RESULTS, LISTED), "digits",
    )  # fmt: skip
    yield from _series(
        "dictionary values", (TABLE,), "for v in $0.values()", dict.values, "values of $0", *whole, NUMBER_RESULTS,
        "values",
    )  # fmt: skip


def _word_series() -> Iterator[Behaviour]:
    yield from _series(
        "word lists", (WORDS,), "for w in $0", list, "words in $0", WORD_CONDITIONS, WORD_CHANGES, LIST_RESULTS, "words"
    )


_SLICES = (
    ("every second number", "$0[::2]", "every_second", lambda xs: xs[::2]),
    ("every third number", "$0[::3]", "every_third", lambda xs: xs[::3]),
    ("all numbers but the first", "$0[1:]", "but_first", lambda xs: xs[1:]),
    ("all numbers but the last", "$0[:-1]", "but_last", lambda xs: xs[:-1]),
    ("the first three numbers", "$0[:3]", "first_three", lambda xs: xs[:3]),
    ("the last three numbers", "$0[-3:]", "last_three", lambda xs: xs[-3:]),
)


def _list_slices() -> Iterator[Behaviour]:
    for (what, code, slug, cut), change, result in product(_SLICES, NUMBER_CHANGES, (*NUMBER_RESULTS, LISTED)):
        yield Behaviour(
            "list slices",
            (NUMBERS,),
            _named(result.slug, slug),
            f"{result.phrase} {what} in $0, each {change.phrase}",
            "return " + result.of(f"{change.of('x')} for x in {code}"),
            lambda xs, k=cut, m=change, r=result: r.function([m.function(x) for x in k(xs)]),
            (("x", change),),
            as_loop(result, f"for x in {code}", "", change.of("x")),
        )


_LIMITS: tuple[tuple[str, str, str, Callable[[int, int], bool]], ...] = (
    ("greater than $1", "x > $1", "over", lambda x, k: x > k),
    ("less than $1", "x < $1", "under", lambda x, k: x < k),
    ("at least $1", "x >= $1", "at_least", lambda x, k: x >= k),
    ("at most $1", "x <= $1", "at_most", lambda x, k: x <= k),
    ("different from $1", "x != $1", "not", lambda x, k: x != k),
)


def _list_limits() -> Iterator[Behaviour]:
    for (phrase, code, slug, holds), change, result in product(_LIMITS, NUMBER_CHANGES, (*NUMBER_RESULTS, LISTED)):
        yield Behaviour(
            "list limits",
            (NUMBERS, INTEGER),
            _named(result.slug, slug),
            f"{result.phrase} the numbers in $0 that are {phrase}, each {change.phrase}",
            "return " + result.of(f"{change.of('x')} for x in $0 if {code}"),
            lambda xs, k, h=holds, m=change, r=result: r.function([m.function(x) for x in xs if h(x, k)]),
            (("x", change),),
            as_loop(result, "for x in $0", code, change.of("x")),
        )


# What is made of two numbers, a and b.
_PAIRS: tuple[tuple[str, str, str, Callable[[int, int], int]], ...] = (
    ("sums", "a + b", "sums", lambda a, b: a + b),
    ("differences", "b - a", "differences", lambda a, b: b - a),
    ("products", "a * b", "products", lambda a, b: a * b),
    ("larger ones", "max(a, b)", "larger", max),
    ("smaller ones", "min(a, b)", "smaller", min),
)


def _pairs(
    family: str, signature: tuple[str, ...], zipped: str, what: str, stem: str, pairs_of: Callable[..., Any]
) -> Iterator[Behaviour]:
    results = (*NUMBER_RESULTS, LISTED)
    for (phrase, code, slug, combine), condition, result in product(_PAIRS, NUMBER_CONDITIONS, results):

        def function(*lists: list[int], f: Any = combine, c: Piece = condition, r: Result = result) -> Any:
            return r.function([v for v in (f(a, b) for a, b in pairs_of(*lists)) if c.function(v)])

        yield Behaviour(
            family,
            signature,
            _named(result.slug, slug, stem),
            f"{result.phrase} the {phrase} of {what} that are {condition.phrase}",
            f"pairs = [{code} for a, b in {zipped}]\nreturn " + result.of("x for x in pairs if " + condition.of("x")),
            function,
            (("x", condition),),
        )


def _list_pairs() -> Iterator[Behaviour]:
    yield from _pairs(
        "two lists", (NUMBERS, NUMBERS), "zip($0, $1)", "the numbers in $0 and $1, pair by pair,", "of_two",
        lambda xs, ys: zip(xs, ys, strict=False),
    )  # fmt: skip
    yield from _pairs(
        "neighbours", (NUMBERS,), "zip($0, $0[1:])", "neighbours in $0", "of_neighbours",
        pairwise,
    )  # fmt: skip


# --- Branches and chains ---------------------------------------------------------------------------------------


def _branches(
    family: str, signature: tuple[str, ...], variable: str, plural: str, conditions: Sequence[Piece],
    changes: Sequence[Piece],
) -> Iterator[Behaviour]:  # fmt: skip
    for condition, (one, other) in product(conditions, permutations(changes, 2)):
        test, this, that = (piece.of(variable) for piece in (condition, one, other))
        yield Behaviour(
            family,
            signature,
            _named(one.slug, "if", condition.slug),
            f"the {plural} in $0, each {one.phrase} if it is {condition.phrase} and {other.phrase} if not",
            f"return [{this} if {test} else {that} for {variable} in $0]",
            lambda xs, c=condition, a=one, b=other: [a.function(x) if c.function(x) else b.function(x) for x in xs],
            ((variable, condition), (variable, one), (variable, other)),
            f"result = []\nfor {variable} in $0:\n    if {test}:\n        result.append({this})\n"
            f"    else:\n        result.append({that})\nreturn result",
        )


def _number_branches() -> Iterator[Behaviour]:
    for condition, (one, other) in product(NUMBER_CONDITIONS, permutations(NUMBER_CHANGES, 2)):
        yield Behaviour(
            "number branches",
            (INTEGER,),
            _named(one.slug, "if", condition.slug),
            f"$0 {one.phrase} if it is {condition.phrase}, and $0 {other.phrase} if not",
            f"if {condition.of('$0')}:\n    return {one.of('$0')}\nreturn {other.of('$0')}",
            lambda n, c=condition, a=one, b=other: a.function(n) if c.function(n) else b.function(n),
            (("$0", condition), ("$0", one), ("$0", other)),
        )


def _number_chains() -> Iterator[Behaviour]:
    for first, second, third in permutations(NUMBER_CHANGES, 3):
        yield Behaviour(
            "number chains",
            (INTEGER,),
            _named(first.slug, "then", second.slug),
            f"$0 first {first.phrase}, then {second.phrase}, then {third.phrase}",
            f"$0 = {first.of('$0')}\n$0 = {second.of('$0')}\nreturn {third.of('$0')}",
            lambda n, a=first, b=second, c=third: c.function(b.function(a.function(n))),
            (("$0", first), ("$0", second), ("$0", third)),
        )


def _first_matches() -> Iterator[Behaviour]:
    for condition, change in product(NUMBER_CONDITIONS, NUMBER_CHANGES):
        yield Behaviour(
            "first matches",
            (NUMBERS, INTEGER),
            _named("first", condition.slug),
            f"the first number in $0 that is {condition.phrase}, {change.phrase}, or $1 if there is none",
            f"for x in $0:\n    if {condition.of('x')}:\n        return {change.of('x')}\nreturn $1",
            lambda xs, k, c=condition, m=change: next((m.function(x) for x in xs if c.function(x)), k),
            (("x", condition), ("x", change)),
        )


# --- Text ------------------------------------------------------------------------------------------------------


def _word_joins() -> Iterator[Behaviour]:
    separators = (("spaces", " "), ("commas", ","), ("dashes", "-"))
    for condition, change, (name, separator) in product(WORD_CONDITIONS, WORD_CHANGES, separators):
        yield Behaviour(
            "word joins",
            (TEXT,),
            _named("join", change.slug),
            f"the words of $0 that are {condition.phrase}, each {change.phrase}, joined by {name}",
            f'return "{separator}".join({change.of("w")} for w in $0.split() if {condition.of("w")})',
            lambda t, c=condition, m=change, s=separator: s.join(m.function(w) for w in t.split() if c.function(w)),
            (("w", condition), ("w", change)),
        )


def _character_filters() -> Iterator[Behaviour]:
    orders: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
        ("", "$0", str),
        (", from the last to the first", "reversed($0)", reversed),
        (", in sorted order", "sorted($0)", sorted),
    )
    for condition, change, (phrase, code, order) in product(CHARACTER_CONDITIONS, CHARACTER_CHANGES, orders):
        yield Behaviour(
            "character filters",
            (TEXT,),
            _named(change.slug, condition.slug),
            f"the characters of $0 that are {condition.phrase}, each {change.phrase}{phrase}",
            f'return "".join({change.of("c")} for c in {code} if {condition.of("c")})',
            lambda t, c=condition, m=change, o=order: "".join(m.function(x) for x in o(t) if c.function(x)),
            (("c", condition), ("c", change)),
        )


def _character_branches() -> Iterator[Behaviour]:
    for condition, (one, other) in product(CHARACTER_CONDITIONS, permutations(CHARACTER_CHANGES, 2)):
        yield Behaviour(
            "character branches",
            (TEXT,),
            _named(one.slug, "if", condition.slug),
            f"$0 with the characters that are {condition.phrase} {one.phrase} and the others {other.phrase}",
            f'return "".join({one.of("c")} if {condition.of("c")} else {other.of("c")} for c in $0)',
            lambda t, c=condition, a=one, b=other: "".join(
                a.function(x) if c.function(x) else b.function(x) for x in t
            ),
            (("c", condition), ("c", one), ("c", other)),
        )


def _character_counts() -> Iterator[Behaviour]:
    parts: tuple[tuple[str, str, Callable[[str], str]], ...] = (
        ("$0", "$0", str),
        ("the first half of $0", "$0[:len($0) // 2]", lambda t: t[: len(t) // 2]),
        ("the second half of $0", "$0[len($0) // 2:]", lambda t: t[len(t) // 2 :]),
        ("all of $0 but its first character", "$0[1:]", lambda t: t[1:]),
    )
    results: tuple[tuple[str, str, str, Callable[[list[str]], Any]], ...] = (
        ("the number of characters", "len([@])", "count", len),
        ("the number of different characters", "len({@})", "distinct", lambda v: len(set(v))),
        ("the sorted list of the characters", "sorted(@)", "sorted", sorted),
    )
    for condition, (phrase, code, cut), (what, gather, name, result) in product(CHARACTER_CONDITIONS, parts, results):
        yield Behaviour(
            "character counts",
            (TEXT,),
            _named(name, condition.slug),
            f"{what} in {phrase} that are {condition.phrase}",
            "return " + gather.replace("@", f"c for c in {code} if {condition.of('c')}"),
            lambda t, c=condition, k=cut, r=result: r([x for x in k(t) if c.function(x)]),
            (("c", condition),),
        )


# --- Dictionaries ----------------------------------------------------------------------------------------------

_KEYS: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("", "k", str),
    (" and each key in upper case", "k.upper()", str.upper),
    (" and each key reversed", "k[::-1]", lambda k: k[::-1]),
)


def _dictionary_changes() -> Iterator[Behaviour]:
    for condition, change, (phrase, key, rename) in product(NUMBER_CONDITIONS, NUMBER_CHANGES, _KEYS):
        yield Behaviour(
            "dictionary changes",
            (TABLE,),
            _named("keep", condition.slug),
            f"a dictionary of the items of $0 whose value is {condition.phrase}, each value {change.phrase}{phrase}",
            f"return {{{key}: {change.of('v')} for k, v in $0.items() if {condition.of('v')}}}",
            lambda d, c=condition, m=change, r=rename: {r(k): m.function(v) for k, v in d.items() if c.function(v)},
            (("v", condition), ("v", change)),
            f"result = {{}}\nfor k, v in $0.items():\n    if {condition.of('v')}:\n"
            f"        result[{key}] = {change.of('v')}\nreturn result",
        )


def _dictionary_items(
    family: str, taken: str, conditions: Sequence[Piece], changes: Sequence[Piece], results: Sequence[Result]
) -> Iterator[Behaviour]:
    """taken: "k" for the keys whose value meets a condition, "v" for the values whose key does."""
    head, tested = "for k, v in $0.items()", "v" if taken == "k" else "k"
    what, whose = ("keys", "value") if taken == "k" else ("values", "key")

    def function(table: dict[str, int], c: Piece, m: Piece, r: Result) -> Any:
        pairs = table.items() if taken == "k" else ((v, k) for k, v in table.items())
        return r.function([m.function(one) for one, other in pairs if c.function(other)])

    for condition, change, result in product(conditions, changes, results):
        yield Behaviour(
            family,
            (TABLE,),
            _named(result.slug, what, condition.slug),
            f"{result.phrase} the {what} of $0 whose {whose} is {condition.phrase}, each {change.phrase}",
            "return " + result.of(f"{change.of(taken)} {head} if {condition.of(tested)}"),
            functools.partial(function, c=condition, m=change, r=result),
            ((tested, condition), (taken, change)),
            as_loop(result, head, condition.of(tested), change.of(taken)),
        )


def _number_tables() -> Iterator[Behaviour]:
    for condition, change in product(NUMBER_CONDITIONS, NUMBER_CHANGES):
        sides = (
            ("x", change.of("x"), "number", f"the number {change.phrase}"),
            (change.of("x"), "x", f"number {change.phrase}", "the number"),
        )
        for turn, (key, value, of, to) in enumerate(sides):

            def function(xs: list[int], c: Piece = condition, m: Piece = change, turned: int = turn) -> dict[int, int]:
                pairs = ((x, m.function(x)) for x in xs if c.function(x))
                return {b: a for a, b in pairs} if turned else dict(pairs)

            yield Behaviour(
                "number tables",
                (NUMBERS,),
                _named("table", condition.slug),
                f"a dictionary from each {of} to {to}, for the numbers in $0 that are {condition.phrase}",
                f"return {{{key}: {value} for x in $0 if {condition.of('x')}}}",
                function,
                (("x", condition), ("x", change)),
                f"result = {{}}\nfor x in $0:\n    if {condition.of('x')}:\n"
                f"        result[{key}] = {value}\nreturn result",
            )


def _groups() -> Iterator[Behaviour]:
    keys: tuple[tuple[str, str, str, Callable[[str], Any]], ...] = (
        ("first letter", "w[0]", "first_letter", lambda w: w[0]),
        ("last letter", "w[-1]", "last_letter", lambda w: w[-1]),
        ("length", "len(w)", "length", len),
    )
    for condition, (phrase, key, slug, key_of), change in product(WORD_CONDITIONS, keys, (None, *WORD_CHANGES[:4])):
        if change is None:
            what, add, empty = "the number of words", "+ 1", "0"
        else:
            what, add, empty = f"the list of words, each {change.phrase},", f"+ [{change.of('w')}]", "[]"

        def function(ws: list[str], c: Piece = condition, k: Any = key_of, m: Piece | None = change) -> dict[Any, Any]:
            groups: dict[Any, list[str]] = {}
            for w in ws:
                if c.function(w):
                    groups.setdefault(k(w), []).append(m.function(w) if m else w)
            return groups if m else {key: len(group) for key, group in groups.items()}

        yield Behaviour(
            "groups",
            (WORDS,),
            _named("group_by", slug),
            f"a dictionary from each {phrase} to {what} in $0 with it that are {condition.phrase}",
            f"groups = {{}}\nfor w in $0:\n    if {condition.of('w')}:\n"
            f"        groups[{key}] = groups.get({key}, {empty}) {add}\nreturn groups",
            function,
            (("w", condition), *((("w", change),) if change else ())),
        )


def all_behaviours() -> Iterator[Behaviour]:
    """Every combination of every family, some of them the same as others in what they do."""
    yield from _number_series()
    yield from _list_slices()
    yield from _list_limits()
    yield from _list_pairs()
    yield from _branches("list branches", (NUMBERS,), "x", "numbers", NUMBER_CONDITIONS, NUMBER_CHANGES)
    yield from _number_branches()
    yield from _number_chains()
    yield from _first_matches()
    yield from _word_series()
    yield from _branches("word branches", (WORDS,), "w", "words", WORD_CONDITIONS, WORD_CHANGES)
    yield from _word_joins()
    yield from _character_filters()
    yield from _character_branches()
    yield from _character_counts()
    yield from _dictionary_changes()
    yield from _dictionary_items("dictionary keys", "k", NUMBER_CONDITIONS, WORD_CHANGES, LIST_RESULTS)
    lookups = (SUM, LARGEST, LISTED)
    yield from _dictionary_items("dictionary lookups", "v", WORD_CONDITIONS, NUMBER_CHANGES, lookups)
    yield from _number_tables()
    yield from _groups()
