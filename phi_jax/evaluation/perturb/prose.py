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
Site = tuple[int, int, list[str]]  # a place that may change, and what may stand there then: the draw takes one
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

_ARTICLE = re.compile(r"(a|an|the) +(?=[A-Za-z])", re.IGNORECASE)


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


def find_prose(prompt: str, entry_point: str | None) -> Prose | None:
    """None where the prompt is no Python that ends in a plain string."""
    tree = last = parsed(prompt)
    while body := getattr(last, "body", None):
        last = body[-1]
    inside = last and string_inside(prompt, last)
    if not tree or not inside:
        return None
    text = prompt[slice(*inside)]
    names = frozenset({*defined(tree), entry_point or ""})
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


def _reworded(
    name: str, sites_of: Callable[[Prose], Iterable[Site]], problem: Problem, rate: float, seed: int
) -> Problem | None:
    """The problem with each site of its prose changed at a chance of `rate`; None where it has no site."""
    prose = find_prose(problem.prompt, problem.entry_point)
    sites = sorted(sites_of(prose)) if prose else []
    if not prose or not sites:
        return None
    edits: list[Edit] = []
    for number, (start, end, options) in enumerate(sites):
        rng = drawn(problem, name, number, seed)
        if rng.random() < rate:
            edits.append((prose.start + start, prose.start + end, rng.choice(options)))
    return dataclasses.replace(problem, prompt=applied(problem.prompt, edits))


def _in_case_of(model: str, word: str) -> str:
    """`word` with a capital where `model` has one."""
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


@functools.cache
def tables() -> dict[str, dict]:
    """neighbours: the keys beside, above and below each letter of a QWERTY keyboard, whose rows are each shifted by a
    half key; grammar: verb or preposition -> a wrong one; paraphrase: phrase -> others that mean the same in a
    programming task, the longest phrase first.
    """
    return json.loads(Path(__file__).with_name("wording.json").read_text())


def _misspelt_words(prose: Prose) -> Iterator[Site]:
    for word in prose.words():
        if len(word.group()) >= SHORTEST:
            yield (*word.span(), [found for found in misspellings(word.group()) if found not in prose.names])


def misspellings(word: str) -> list[str]:
    """The word with one slip of the hand behind its first letter: a letter becomes one beside it on the keyboard,
    changes places with the next, goes missing or comes twice.
    """
    found = []
    for i in range(1, len(word)):
        before, letter, behind = word[:i], word[i], word[i + 1 :]
        slips = [*tables()["neighbours"][letter], "", 2 * letter]
        found += [before + slip + behind for slip in slips]
        found += [before + behind[0] + letter + behind[1:]] if behind[:1] not in ("", letter) else []
    return found


def _wrong_grammar(prose: Prose) -> Iterator[Site]:
    for match in prose.words():
        word, (start, end) = match.group(), match.span()
        wrong = tables()["grammar"].get(word.lower())
        options = [_in_case_of(word, wrong)] if wrong else []
        if word[0].isupper() and len(word) > 1 and re.search(r"(^|[.!?:])\s*$", prose.text[:start]):
            options.append(word.lower())
        if article := _ARTICLE.match(prose.text, start):
            options = [other + prose.text[end : article.end()] for other in options] + [""]
            end = article.end()
        if options:
            yield start, end, options
    for comma in re.finditer(r"(?<=[A-Za-z]),(?=\s+[A-Za-z])", prose.text):
        if prose.is_free(*comma.span()):
            yield (*comma.span(), [""])


def _phrases(prose: Prose) -> list[Site]:
    found: list[Site] = []
    for phrase, others in tables()["paraphrase"].items():
        # None begins or ends within a word.
        for match in re.finditer(rf"\b{phrase}(?!(?<=\w)\w)", prose.text, re.IGNORECASE):
            start, end = match.span()
            if prose.is_free(start, end) and not any(a < end and start < b for a, b, _ in found):
                found.append((start, end, [_in_case_of(match.group(), other) for other in others]))
    return found


# Each is a perturbation (problem, rate, seed). Code, examples, quotes, numbers and names stay as they are.
# Misspells each word of three letters or more.
typos = functools.partial(_reworded, "typos", _misspelt_words)
# Makes a grammar error at each place for one: an article or comma goes missing, a verb stops agreeing, a preposition
# becomes another, a sentence starts small. Where several fit one word, the draw takes one.
grammar = functools.partial(_reworded, "grammar", _wrong_grammar)
# Says each phrase that a rule knows otherwise; the meaning stays, the style may suffer.
paraphrase = functools.partial(_reworded, "paraphrase", _phrases)
