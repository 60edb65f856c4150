"""The prose of a prompt: where its docstring is, which parts of it are words to read and which are code or names."""

from __future__ import annotations

import ast
import dataclasses
import functools
import random
import re
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO

from phi_jax.evaluation.problems import Problem

Edit = tuple[int, int, str]  # start and end in a text, and what stands there instead
Site = Callable[[random.Random], Sequence[Edit]]  # one thing that may be changed, and how, by the draw
Function = (ast.FunctionDef, ast.AsyncFunctionDef)

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
# Letters alone: no part of an identifier, of a number, of "it's", of a dotted name, of an escape or of a call.
_WORD = re.compile(r"(?<![\w\\'@.])[A-Za-z]+(?![\w'(]|\.\w)")


@dataclasses.dataclass(frozen=True)
class Prose:
    """The text of the docstring that a prompt ends in."""

    start: int  # of the text in the prompt, in characters
    text: str
    names: frozenset[str]  # that the program defines; a word that is one of them stays
    code: tuple[tuple[int, int], ...]  # spans of the text that are lines of examples
    protected: tuple[tuple[int, int], ...]  # those, and code, quotes and names within lines

    def free(self, start: int, end: int) -> bool:
        """Whether nothing of this span of the text is protected."""
        return not any(a < end and start < b for a, b in self.protected)

    def words(self) -> Iterator[re.Match[str]]:
        """The words, articles included, that are nothing but words: "Return", not "MAD", "x_mean" or "True"."""
        for word in _WORD.finditer(self.text):
            ordinary = word.group() not in _VALUES and (len(word.group()) == 1 or word.group()[1:].islower())
            if ordinary and self.free(*word.span()):
                yield word


_VALUES = {"True", "False", "None"}


@functools.lru_cache(maxsize=4096)
def find_prose(prompt: str, entry_point: str | None) -> Prose | None:
    """The docstring that the prompt ends in: of the function to be written, or of the module (MBPP).

    None where the prompt is no Python that ends in a string, plain and in one piece.
    """
    tree = parsed(prompt)
    last = last_statement(tree) if tree else None
    if not tree or not isinstance(last, ast.Expr) or not isinstance(last.value, ast.Constant):
        return None
    if not isinstance(last.value.value, str):
        return None
    start, end = span(prompt, last.value)
    inner = string_inside(prompt[start:end])
    if inner is None:
        return None
    start, text = start + inner[0], prompt[start + inner[0] : start + inner[1]]
    names = frozenset(defined(tree)) | ({entry_point} if entry_point else set())
    code = tuple(_code_lines(text))
    protected = [*code, *(m.span() for m in _INLINE.finditer(text))]
    protected += [m.span() for m in re.finditer(r"\w+", text) if m.group() in names]
    return Prose(start, text, names, code, tuple(protected))


def parsed(source: str) -> ast.Module | None:
    """The tree of a program; None where it is none. Its doubtful escapes ("\\w") are no concern of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def last_statement(tree: ast.Module) -> ast.stmt | None:
    """The statement that a prompt ends in, within its last class and function."""
    body: list[ast.stmt] = tree.body
    while body and isinstance(body[-1], (*Function, ast.ClassDef)):
        body = body[-1].body
    return body[-1] if body else None


def string_inside(literal: str) -> tuple[int, int] | None:
    """Where the text of a string literal begins and ends; None for several literals that make one string."""
    try:
        tokens = [t for t in tokenize.generate_tokens(StringIO(literal).readline) if t.type == tokenize.STRING]
    except (tokenize.TokenError, SyntaxError):
        return None
    quote = re.match(r"""[a-zA-Z]*('''|\"""|'|")""", literal)
    if len(tokens) != 1 or not quote or tokens[0].string != literal:
        return None
    return quote.end(), len(literal) - len(quote.group(1))


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
        if isinstance(node, (*Function, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _code_lines(text: str) -> Iterator[tuple[int, int]]:
    """Lines of examples: from >>> to the next blank line, as doctest reads them; indented; or with an arrow or ==."""
    lines = text.split("\n")
    indents = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    indented = min(indents, default=0) + 4
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


def rewritten(
    problem: Problem, name: str, sites_of: Callable[[Prose], Sequence[Site]], rate: float, seed: int
) -> Problem | None:
    """The problem with each site of its prose changed at a chance of `rate`; None where it has no site."""
    prose = find_prose(problem.prompt, problem.entry_point)
    sites = sites_of(prose) if prose else []
    if not prose or not sites:
        return None
    edits: list[Edit] = []
    for number, site in enumerate(sites):
        rng = drawn(problem, name, number, seed)
        if rng.random() < rate:
            edits += [(prose.start + start, prose.start + end, new) for start, end, new in site(rng)]
    return dataclasses.replace(problem, prompt=applied(problem.prompt, edits))


def in_case_of(model: str, word: str) -> str:
    """`word` with a capital where `model` has one."""
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def one_of(options: Sequence[Edit], rng: random.Random) -> Sequence[Edit]:
    """A site that the draw picks an edit for."""
    return [rng.choice(options)]
