"""Wrong versions of a solution that its tests have to notice.

Trivial bodies: `return None`, the first argument, each of up to three results that the solution gives in the tests, and
the empty value of the first one's type. Tests that pass with one of these show nothing about the function.

Mutants: one token of the source changed, as in mutation testing (DeMillo, Lipton and Sayward 1978, "Hints on test data
selection"). Some are equivalent to the solution, so a suite need not notice all of them.
"""

import ast
import io
import itertools
import operator
import tokenize
from collections import Counter
from typing import NamedTuple

from phi_jax.synthesis.llm.examples import UNREADABLE, parsed

MOST = 10  # mutants of one solution, trivial bodies aside

_TRIVIAL = (
    ("returns None", "None"),
    ("returns its first argument", "arguments[0] if arguments else next(iter(keywords.values()))"),
    ("always returns the same result (the first)", "_results[0]"),
    ("always returns the same result (the second)", "_results[1]"),
    ("always returns the same result (the third)", "_results[2]"),
    ("always returns the empty value of its type", "type(_results[0])()"),
)
# Kind -> "token and what takes its place, the next token ...". Numbers become one larger.
_CHANGES = {
    "boundary": "< <=, <= <, > >=, >= >",
    "equality": "== !=, != ==, in not in, is is not, not",
    "connective": "and or, or and",
    "arithmetic": "+ -, - +, * +, / *, // *, % *, ** *, & |, | &, ^ &, << >>, >> <<, "
    "+= -=, -= +=, *= +=, /= *=, //= *=, %= *=, |= &=, &= |=",
    "constant": "True False, False True",
    "negation": "if if not, elif elif not, while while not",
    "statement": "break pass, continue pass",
    "call": "min max, max min, any all, all any, sorted list, upper lower, lower upper, "
    "startswith endswith, endswith startswith, append count, extend count, remove count, add discard, sort copy, "
    "reverse copy, executemany execute",
}
_OTHER = {
    old: (kind, new)
    for kind, changes in _CHANGES.items()
    for old, _, new in (change.partition(" ") for change in changes.split(", "))
}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Mutant(NamedTuple):
    """The source with one change; all other text is as it was."""

    kind: str  # a key of _CHANGES
    line: int  # of the change, from 1
    code: str


def trivial_bodies(name: str) -> list[tuple[str, str]]:
    """(what it does, a definition of `name` that does it). They use `_results`, as sandbox_checks.exercise gives it."""
    return [(what, f"def {name}(*arguments, **keywords):\n    return {result}\n") for what, result in _TRIVIAL]


def mutants(code: str, most: int = MOST) -> list[Mutant]:
    """At most `most` mutants of the bodies of the functions and classes in `code`: the same on every machine.

    Kinds take turns, so that a function full of constants still has its conditions changed. Raises one of UNREADABLE.
    """
    definitions = [node for node in parsed(code).body if isinstance(node, _DEFINITIONS)]
    bodies = {line for d in definitions for line in range(d.body[0].lineno, (d.end_lineno or 0) + 1)}
    seen: Counter[str] = Counter()
    changes: list[tuple[int, str, str, tokenize.TokenInfo]] = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind, new = _change(token)
        if kind and token.start[0] in bodies:
            changes.append((seen[kind], kind, new, token))
            seen[kind] += 1
    turns = sorted(changes, key=operator.itemgetter(0, 1))
    made = (_mutant(code, kind, new, token) for _, kind, new, token in turns)
    return list(itertools.islice(filter(None, made), most))


def _change(token: tokenize.TokenInfo) -> tuple[str, str]:
    """(kind, what takes the token's place), empty where nothing does."""
    if token.type == tokenize.NUMBER:
        value = ast.literal_eval(token.string)
        return ("constant", repr(value + 1)) if value + 1 != value else ("", "")
    code = token.type in (tokenize.OP, tokenize.NAME)  # not the text of an f-string
    return _OTHER.get(token.string, ("", "")) if code else ("", "")


def _mutant(code: str, kind: str, new: str, token: tokenize.TokenInfo) -> Mutant | None:
    """The code with `new` in the token's place; None where that is no Python."""
    lines = code.split("\n")
    line, start = token.start
    lines[line - 1] = lines[line - 1][:start] + new + lines[line - 1][token.end[1] :]
    changed = "\n".join(lines)
    try:
        parsed(changed)
    except UNREADABLE:
        return None
    return Mutant(kind, line, changed)
