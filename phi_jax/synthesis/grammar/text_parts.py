"""The words of the grammar: conditions, changes and results, each as English and as code.

The English goes into docstrings and prose, the code into solutions.
"""

from __future__ import annotations

import dataclasses


class Code(str):
    """Python code in which "@" stands for a place. In a format string, `{code:x}` puts `x` there."""

    def __format__(self, inside: str) -> str:
        return self.replace("@", inside)


@dataclasses.dataclass(frozen=True)
class Part:
    """One choice of a family. In a format string, `{part:x}` is its code about `x`."""

    phrase: str  # condition: "numbers that are <phrase>"; change: "each <phrase>"; result: "<phrase> the numbers"
    code: str  # "@" stands for the variable; of a result, for the inside of a generator
    slug: str = ""  # part of a function's name

    def __format__(self, inside: str) -> str:
        return format(Code(self.code), inside)


_APPEND = Code("found.append(@)")


@dataclasses.dataclass(frozen=True)
class Result(Part):
    """What a function makes of a series of values; as a loop, from its start to what it returns in the end."""

    end: str = "found"
    start: str = "found = []"
    step: Code = _APPEND  # "@" stands for each value


NUMBER_CONDITIONS = (
    Part("even", "@ % 2 == 0", "even"),
    Part("odd", "@ % 2 == 1", "odd"),
    Part("positive", "@ > 0", "positive"),
    Part("negative", "@ < 0", "negative"),
    Part("divisible by 3", "@ % 3 == 0", "threes"),
    Part("divisible by 5", "@ % 5 == 0", "fives"),
    Part("greater than 10", "@ > 10", "over_ten"),
    Part("less than 5", "@ < 5", "under_five"),
)
NUMBER_CHANGES = (
    Part("doubled", "2 * @", "doubled"),
    Part("squared", "@ * @", "squared"),
    Part("cubed", "@ ** 3", "cubed"),
    Part("negated", "-@", "negated"),
    Part("increased by 1", "@ + 1", "plus_one"),
    Part("decreased by 3", "@ - 3", "minus_three"),
    Part("halved and rounded down", "@ // 2", "halved"),
    Part("without its sign", "abs(@)", "unsigned"),
    Part("reduced to its remainder by 7", "@ % 7", "modulo_seven"),
)
DIGIT_CONDITIONS = (
    *NUMBER_CONDITIONS[:2],
    NUMBER_CONDITIONS[4],
    Part("greater than 4", "@ > 4", "over_four"),
    NUMBER_CONDITIONS[7],
    Part("different from 0", "@ != 0", "nonzero"),
)
DIGIT_CHANGES = (*NUMBER_CHANGES[:5], NUMBER_CHANGES[6])
WORD_CONDITIONS = (
    Part("longer than 4 letters", "len(@) > 4", "long"),
    Part("shorter than 4 letters", "len(@) < 4", "short"),
    Part("of even length", "len(@) % 2 == 0", "even_length"),
    Part("spelled with an a", '"a" in @', "with_a"),
    Part("spelled without an e", '"e" not in @', "without_e"),
    Part("started by a vowel", '@[0] in "aeiou"', "vowel_first"),
    Part("ended by a vowel", '@[-1] in "aeiou"', "vowel_last"),
)
WORD_CHANGES = (
    Part("in upper case", "@.upper()", "upper"),
    Part("capitalized", "@.capitalize()", "capitalized"),
    Part("reversed", "@[::-1]", "reversed"),
    Part("written twice", "@ + @", "twice"),
    Part("cut to its first letter", "@[0]", "first_letter"),
    Part("cut to its last letter", "@[-1]", "last_letter"),
    Part("without its first letter", "@[1:]", "beheaded"),
    Part("followed by a mark", '@ + "!"', "marked"),
)
CHARACTER_CONDITIONS = (
    Part("vowels", '@ in "aeiou"', "vowels"),
    Part("not vowels", '@ not in "aeiou"', "not_vowels"),
    Part("digits", "@.isdigit()", "digits"),
    Part("letters", "@.isalpha()", "letters"),
    Part("upper case", "@.isupper()", "upper_case"),
    Part("lower case", "@.islower()", "lower_case"),
    Part("not spaces", '@ != " "', "not_spaces"),
    Part("before n in the alphabet", '"a" <= @ < "n"', "before_n"),
)
CHARACTER_CHANGES = (
    Part("in upper case", "@.upper()", "upper"),
    Part("in lower case", "@.lower()", "lower"),
    Part("written twice", "@ + @", "twice"),
    Part("followed by a dash", '@ + "-"', "dashed"),
    Part("replaced by a star", '"*"', "starred"),
    Part("with its case swapped", "@.swapcase()", "swapped"),
)

SUM = Result("the sum of", "sum(@)", "sum", "result", "result = 0", Code("result += @"))
LARGEST = Result("the largest of", "max((@), default=0)", "largest", "max(found, default=0)")
SMALLEST = Result("the smallest of", "min((@), default=0)", "smallest", "min(found, default=0)")
LISTED = Result("the list of", "[@]", "list")
SORTED = Result("the sorted list of", "sorted(@)", "sorted", "sorted(found)")
REVERSED = Result("the reversed list of", "[@][::-1]", "reversed", "found[::-1]")
NUMBER_RESULTS = (SUM, LARGEST, SMALLEST)
LIST_RESULTS = (LISTED, SORTED, REVERSED)

SLICES = (
    Part("every second number", "$0[::2]", "every_second"),
    Part("every third number", "$0[::3]", "every_third"),
    Part("all numbers but the first", "$0[1:]", "but_first"),
    Part("all numbers but the last", "$0[:-1]", "but_last"),
    Part("the first three numbers", "$0[:3]", "first_three"),
    Part("the last three numbers", "$0[-3:]", "last_three"),
)
LIMITS = (
    Part("greater than $1", "@ > $1", "over"),
    Part("less than $1", "@ < $1", "under"),
    Part("at least $1", "@ >= $1", "at_least"),
    Part("at most $1", "@ <= $1", "at_most"),
    Part("different from $1", "@ != $1", "not"),
)
PAIRS = (  # what is made of two numbers, a and b
    Part("sums", "a + b", "sums"),
    Part("differences", "b - a", "differences"),
    Part("products", "a * b", "products"),
    Part("larger ones", "max(a, b)", "larger"),
    Part("smaller ones", "min(a, b)", "smaller"),
)
SEPARATORS = (Part("spaces", " "), Part("commas", ","), Part("dashes", "-"))
ORDERS = (
    Part("", "$0"),
    Part(", from the last to the first", "reversed($0)"),
    Part(", in sorted order", "sorted($0)"),
)
TEXT_PARTS = (
    Part("$0", "$0"),
    Part("the first half of $0", "$0[:len($0) // 2]"),
    Part("the second half of $0", "$0[len($0) // 2:]"),
    Part("all of $0 but its first character", "$0[1:]"),
)
CHARACTER_RESULTS = (
    Part("the number of characters", "len([@])", "count"),
    Part("the number of different characters", "len({@})", "distinct"),
    Part("the sorted list of the characters", "sorted(@)", "sorted"),
)
KEYS = (
    Part("", "k"),
    Part(" and each key in upper case", "k.upper()"),
    Part(" and each key reversed", "k[::-1]"),
)
GROUPS = (
    Part("first letter", "w[0]", "first_letter"),
    Part("last letter", "w[-1]", "last_letter"),
    Part("length", "len(w)", "length"),
)
