"""The prose of a prompt, and typing errors, grammar errors and other words in it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from phi_jax.evaluation.problems import Problem

Edit = tuple[int, int, str]  # start and end in a text, and what stands there instead
Site = tuple[int, int, Callable[[random.Random], str]]  # one place that may change, and to what, by the draw
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SHORTEST = 3  # letters of a word that may be misspelt

# A line that is an example and not prose, wherever it stands.
_EXAMPLE = re.compile(r"==|!=|=>|->|➞|→|^\s*assert\b|^\s*(input|output)s?\s*:", re.IGNORECASE)
_INLINE = re.compile(
    r"""
    `[^`'\n]*'(?!\w) | `+[^`\n]*`+                # code, also in the manner of `this'
    | (?<!\w)'[^'\n]*'(?!\w) | "[^"\n]*"          # quoted; the apostrophe of "it's" opens nothing
    | \w[\w.]*\([^()\n]*\)                        # a call
    | \[[^\]\n]*\] | \{[^}\n]*\} | <[^<>\n]*>     # data, formats
    | [^\W\d_]\w*(?=\s*=(?!=))                    # what a value is given to
    | \w+:[\w/.\-?=&]+ | \\.                      # addresses, escapes
    """,
    re.VERBOSE,
)
# Letters alone: no part of an identifier, of a number, of "it's", of a dotted name, of an escape or of a call; and with
# no capital but the first, which leaves out "MAD", and no value of Python's.
_WORD = re.compile(r"(?<![\w\\'@.])(?!True\b|False\b|None\b)[A-Za-z][a-z]*(?![\w'(]|\.\w)")


@dataclasses.dataclass(frozen=True)
class Prose:
    """The text of the docstring that a prompt ends in: of the function to be written, or of the module (MBPP)."""

    start: int  # of the text in the prompt, in characters
    text: str
    names: frozenset[str]  # that the program defines; a word that is one of them stays
    protected: tuple[tuple[int, int], ...]  # spans of the text: lines of examples; code, quotes, names within lines

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing of this span of the text is protected."""
        return not any(a < end and start < b for a, b in self.protected)

    def words(self) -> Iterator[re.Match[str]]:
        """The words, articles included, that are nothing but words."""
        return (word for word in _WORD.finditer(self.text) if self.is_free(*word.span()))


@functools.lru_cache(maxsize=4096)
def find_prose(prompt: str, entry_point: str | None) -> Prose | None:
    """None where the prompt is no Python that ends in a plain string."""
    tree = parsed(prompt)
    body = tree.body if tree else []
    while body and isinstance(body[-1], (*FUNCTIONS, ast.ClassDef)):
        body = body[-1].body
    inside = string_inside(prompt, body[-1]) if body else None
    if not tree or not inside:
        return None
    text = prompt[slice(*inside)]
    names = frozenset({*defined(tree), *([entry_point] if entry_point else [])})
    protected = [*code_lines(text), *(m.span() for m in _INLINE.finditer(text))]
    protected += [m.span() for m in re.finditer(r"\w+", text) if m.group() in names]
    return Prose(inside[0], text, names, tuple(protected))


def parsed(source: str) -> ast.Module | None:
    """The tree of a program; None where it is none. Invalid escapes ("\\w") give no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def string_inside(source: str, statement: ast.AST) -> tuple[int, int] | None:
    """Where the text of a docstring begins and ends; None for another statement, and several literals in a row."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return None
    start, end = span(source, statement.value)
    literal = re.fullmatch(r"""[rRuU]?('''|\"""|'|")(.*)\1""", source[start:end], re.DOTALL)
    return (start + literal.start(2), start + literal.end(2)) if literal and literal[1] not in literal[2] else None


def span(source: str, node: ast.AST) -> tuple[int, int]:
    """Start and end of a node in its source, in characters (ast counts lines and bytes)."""
    lines = source.split("\n")

    def offset(line: int, column: int) -> int:
        before = sum(len(text) + 1 for text in lines[: line - 1])
        return before + len(lines[line - 1].encode()[:column].decode())

    place = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
    return offset(*place[:2]), offset(*place[2:])


def defined(tree: ast.AST) -> Iterator[str]:
    """The names that a program gives: functions, classes, arguments and variables."""
    for node in ast.walk(tree):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def code_lines(text: str) -> Iterator[tuple[int, int]]:
    """Lines of examples: from >>> to the next blank line, as doctest reads them; indented; or with an arrow or ==."""
    lines = text.split("\n")
    indented = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0) + 4
    position, example = 0, False
    for number, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        deep = number > 0 and len(line) - len(line.lstrip()) >= indented
        if example or deep or _EXAMPLE.search(line):
            yield position, position + len(line)
        position += len(line) + 1


def applied(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made; they must not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def drawn(problem: Problem, name: str, site: int, seed: int) -> random.Random:
    """The generator of one site: whether it changes is its first draw, so the rate does not change how it changes."""
    return random.Random(f"{seed}/{name}/{problem.task_id}/{site}")


def _rewritten(
    problem: Problem, name: str, sites_of: Callable[[Prose], list[Site]], rate: float, seed: int
) -> Problem | None:
    """The problem with each site of its prose changed at a chance of `rate`; None where it has no site."""
    prose = find_prose(problem.prompt, problem.entry_point)
    sites = sites_of(prose) if prose else []
    if not prose or not sites:
        return None
    edits: list[Edit] = []
    for number, (start, end, choose) in enumerate(sites):
        rng = drawn(problem, name, number, seed)
        if rng.random() < rate:
            edits.append((prose.start + start, prose.start + end, choose(rng)))
    return dataclasses.replace(problem, prompt=applied(problem.prompt, edits))


def _in_case_of(model: str, word: str) -> str:
    """`word` with a capital where `model` has one."""
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


@functools.cache
def tables() -> dict[str, dict]:
    """neighbours: the keys beside, above and below each letter of a QWERTY keyboard, whose rows are each shifted by a
    half key; agreement and prepositions: word -> a wrong one; paraphrase: phrase -> others that mean the same in a
    programming task, the longest phrase first.
    """
    return json.loads(Path(__file__).with_name("wording.json").read_text())


# --- Typos -----------------------------------------------------------------------------------------------------


def typos(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Misspells each word of three letters or more at a chance of `rate`.

    A letter becomes one beside it on the keyboard, changes places with the next, goes missing or comes twice; the first
    stays. Code, examples, quotes, numbers and names stay.
    """

    def sites(prose: Prose) -> list[Site]:
        return [
            (*word.span(), functools.partial(misspelt, word.group(), prose.names))
            for word in prose.words()
            if len(word.group()) >= SHORTEST
        ]

    return _rewritten(problem, "typos", sites, rate, seed)


def misspelt(word: str, names: frozenset[str], rng: random.Random) -> str:
    """The word with one typing error: never itself, and none of `names`."""
    for kind in rng.sample(("neighbour", "swap", "drop", "double"), 4):
        i = rng.randrange(1, len(word) - (kind == "swap"))
        here = {
            "neighbour": lambda i=i: rng.choice(tables()["neighbours"][word[i]]) + word[i + 1 :],
            "swap": lambda i=i: word[i + 1] + word[i] + word[i + 2 :],
            "drop": lambda i=i: word[i + 1 :],
            "double": lambda i=i: word[i] + word[i:],
        }
        found = word[:i] + here[kind]()
        if found != word and found not in names:
            return found
    return word + word[-1]


# --- Grammar errors --------------------------------------------------------------------------------------------


def grammar(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Makes a grammar error at each place for one, at a chance of `rate`.

    An article or comma goes missing, a verb stops agreeing, a preposition becomes another, a sentence starts small.
    Where several fit one word, the draw takes one.
    """

    def sites(prose: Prose) -> list[Site]:
        found: list[Site] = []
        for word in prose.words():
            article = re.compile(r"(a|an|the) +(?=[A-Za-z])", re.IGNORECASE).match(prose.text, word.start())
            end = article.end() if article else word.end()
            behind = prose.text[word.end() : end]
            options = [new + behind for new in _wrong_words(prose.text, word)] + ([""] if article else [])
            if options:
                found.append((word.start(), end, functools.partial(_one_of, options)))
        for comma in re.finditer(r"(?<=[A-Za-z]),(?=\s+[A-Za-z])", prose.text):
            if prose.is_free(*comma.span()):
                found.append((*comma.span(), functools.partial(_one_of, [""])))
        return sorted(found, key=lambda site: site[:2])

    return _rewritten(problem, "grammar", sites, rate, seed)


def _one_of(options: list[str], rng: random.Random) -> str:
    return rng.choice(options)


def _wrong_words(text: str, match: re.Match[str]) -> Iterator[str]:
    word = match.group()
    for table in (tables()["agreement"], tables()["prepositions"]):
        if word.lower() in table:
            yield _in_case_of(word, table[word.lower()])
    before = text[: match.start()].rstrip()
    if word[0].isupper() and len(word) > 1 and (not before or before[-1] in ".!?:"):
        yield word.lower()


# --- Paraphrases -----------------------------------------------------------------------------------------------


def paraphrase(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Says each phrase that a rule knows otherwise, at a chance of `rate`; the meaning stays, the style may suffer."""

    def sites(prose: Prose) -> list[Site]:
        found: list[Site] = []
        for rule, others in _rules():
            for match in rule.finditer(prose.text):
                start, end = match.span()
                if prose.is_free(start, end) and not any(a < end and start < b for a, b, _ in found):
                    options = [_in_case_of(match.group(), other) for other in others]
                    found.append((start, end, functools.partial(_one_of, options)))
        return sorted(found, key=lambda site: site[:2])

    return _rewritten(problem, "paraphrase", sites, rate, seed)


@functools.cache
def _rules() -> list[tuple[re.Pattern[str], list[str]]]:
    """(phrase, others). None ends within a word."""
    rules = tables()["paraphrase"].items()
    return [(re.compile(rf"\b{phrase}(?!(?<=\w)\w)", re.IGNORECASE), others) for phrase, others in rules]
