"""The words of the grammar: conditions, changes and results, each as English, as code and as a function.

The English goes into docstrings and prose, the code into solutions, and the function says what the code must give: the
texts are executed and compared with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

VOWELS = "aeiou"


@dataclasses.dataclass(frozen=True)
class Piece:
    """One condition or change. In `code` and `phrase`, "@" stands for the variable."""

    phrase: str  # condition: "numbers that are <phrase>"; change: "each <phrase>"
    code: str
    slug: str  # part of a function's name
    function: Callable[[Any], Any]

    def of(self, variable: str) -> str:
        """The code, on a variable."""
        return self.code.replace("@", variable)


# --- Numbers -------------------------------------------------------------------------------------------------

NUMBER_CONDITIONS = (
    Piece("even", "@ % 2 == 0", "even", lambda x: x % 2 == 0),
    Piece("odd", "@ % 2 == 1", "odd", lambda x: x % 2 == 1),
    Piece("positive", "@ > 0", "positive", lambda x: x > 0),
    Piece("negative", "@ < 0", "negative", lambda x: x < 0),
    Piece("divisible by 3", "@ % 3 == 0", "threes", lambda x: x % 3 == 0),
    Piece("divisible by 5", "@ % 5 == 0", "fives", lambda x: x % 5 == 0),
    Piece("greater than 10", "@ > 10", "over_ten", lambda x: x > 10),
    Piece("less than 5", "@ < 5", "under_five", lambda x: x < 5),
)
NUMBER_CHANGES = (
    Piece("doubled", "2 * @", "doubled", lambda x: 2 * x),
    Piece("squared", "@ * @", "squared", lambda x: x * x),
    Piece("cubed", "@ ** 3", "cubed", lambda x: x**3),
    Piece("negated", "-@", "negated", lambda x: -x),
    Piece("increased by 1", "@ + 1", "plus_one", lambda x: x + 1),
    Piece("decreased by 3", "@ - 3", "minus_three", lambda x: x - 3),
    Piece("halved and rounded down", "@ // 2", "halved", lambda x: x // 2),
    Piece("without its sign", "abs(@)", "unsigned", abs),
    Piece("reduced to its remainder by 7", "@ % 7", "modulo_seven", lambda x: x % 7),
)
DIGIT_CONDITIONS = (
    *NUMBER_CONDITIONS[:2],
    NUMBER_CONDITIONS[4],
    Piece("greater than 4", "@ > 4", "over_four", lambda x: x > 4),
    NUMBER_CONDITIONS[7],
    Piece("different from 0", "@ != 0", "nonzero", lambda x: x != 0),
)
DIGIT_CHANGES = (*NUMBER_CHANGES[:5], NUMBER_CHANGES[6])

# --- Words ---------------------------------------------------------------------------------------------------

WORD_CONDITIONS = (
    Piece("longer than 4 letters", "len(@) > 4", "long", lambda w: len(w) > 4),
    Piece("shorter than 4 letters", "len(@) < 4", "short", lambda w: len(w) < 4),
    Piece("of even length", "len(@) % 2 == 0", "even_length", lambda w: len(w) % 2 == 0),
    Piece("spelled with an a", '"a" in @', "with_a", lambda w: "a" in w),
    Piece("spelled without an e", '"e" not in @', "without_e", lambda w: "e" not in w),
    Piece("started by a vowel", '@[0] in "aeiou"', "vowel_first", lambda w: w[0] in VOWELS),
    Piece("ended by a vowel", '@[-1] in "aeiou"', "vowel_last", lambda w: w[-1] in VOWELS),
)
WORD_CHANGES = (
    Piece("in upper case", "@.upper()", "upper", lambda w: w.upper()),
    Piece("capitalized", "@.capitalize()", "capitalized", lambda w: w.capitalize()),
    Piece("reversed", "@[::-1]", "reversed", lambda w: w[::-1]),
    Piece("written twice", "@ + @", "twice", lambda w: w + w),
    Piece("cut to its first letter", "@[0]", "first_letter", lambda w: w[0]),
    Piece("cut to its last letter", "@[-1]", "last_letter", lambda w: w[-1]),
    Piece("without its first letter", "@[1:]", "beheaded", lambda w: w[1:]),
    Piece("followed by a mark", '@ + "!"', "marked", lambda w: w + "!"),
)

# --- Characters ----------------------------------------------------------------------------------------------

CHARACTER_CONDITIONS = (
    Piece("vowels", '@ in "aeiou"', "vowels", lambda c: c in VOWELS),
    Piece("not vowels", '@ not in "aeiou"', "not_vowels", lambda c: c not in VOWELS),
    Piece("digits", "@.isdigit()", "digits", lambda c: c.isdigit()),
    Piece("letters", "@.isalpha()", "letters", lambda c: c.isalpha()),
    Piece("upper case", "@.isupper()", "upper_case", lambda c: c.isupper()),
    Piece("lower case", "@.islower()", "lower_case", lambda c: c.islower()),
    Piece("not spaces", '@ != " "', "not_spaces", lambda c: c != " "),
    Piece("before n in the alphabet", '"a" <= @ < "n"', "before_n", lambda c: "a" <= c < "n"),
)
CHARACTER_CHANGES = (
    Piece("in upper case", "@.upper()", "upper", lambda c: c.upper()),
    Piece("in lower case", "@.lower()", "lower", lambda c: c.lower()),
    Piece("written twice", "@ + @", "twice", lambda c: c + c),
    Piece("followed by a dash", '@ + "-"', "dashed", lambda c: c + "-"),
    Piece("replaced by a star", '"*"', "starred", lambda c: "*"),
    Piece("with its case swapped", "@.swapcase()", "swapped", lambda c: c.swapcase()),
)


# --- Results: what is made of a series of values -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Result:
    """What a function makes of the values it has gathered. `code` holds "@" for the generator's inside."""

    phrase: str  # "the sum of", before the values
    code: str
    slug: str
    function: Callable[[list[Any]], Any]
    loop: tuple[str, str, str]  # start, what is done with each value "@", what is returned at the end

    def of(self, inside: str) -> str:
        """The code, around the inside of a generator."""
        return self.code.replace("@", inside)


SUM = Result("the sum of", "sum(@)", "sum", sum, ("result = 0", "result += @", "result"))
_GATHER = ("found = []", "found.append(@)")
LARGEST = Result(
    "the largest of", "max((@), default=0)", "largest", lambda v: max(v, default=0), (*_GATHER, "max(found, default=0)")
)
SMALLEST = Result(
    "the smallest of",
    "min((@), default=0)",
    "smallest",
    lambda v: min(v, default=0),
    (*_GATHER, "min(found, default=0)"),
)
LISTED = Result("the list of", "[@]", "list", list, (*_GATHER, "found"))
SORTED = Result("the sorted list of", "sorted(@)", "sorted", sorted, (*_GATHER, "sorted(found)"))
REVERSED = Result("the reversed list of", "[@][::-1]", "reversed", lambda v: v[::-1], (*_GATHER, "found[::-1]"))
NUMBER_RESULTS = (SUM, LARGEST, SMALLEST)
LIST_RESULTS = (LISTED, SORTED, REVERSED)


def as_loop(result: Result, head: str, condition: str, value: str) -> str:
    """The result of a series as a loop, for `head` ("for x in $0") and a condition, which may be empty."""
    start, step, returned = result.loop
    step = step.replace("@", value)
    inside = f"    if {condition}:\n        {step}" if condition else f"    {step}"
    return f"{start}\n{head}:\n{inside}\nreturn {returned}"
