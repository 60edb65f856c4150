"""Perturbed prompts: the same problems, asked differently, to see how far a score hangs on the wording.

The phi-1 paper names the weakness: its model is "sensitive to style and to grammatical errors in the prompt". Each
perturbation is a pure function (problem, rate, seed) -> Problem, or None where the prompt offers it nothing to change.
task_id stays, so that runs are compared problem by problem (comparison.robustness), and so does `row`, which is what
the file said. Tests, reference and prompt change together, so the reference still passes.
"""

import ast
import builtins
import dataclasses
import functools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phi_jax.evaluation.problems import Problem
from phi_jax.store.artifact import Json
from phi_jax.store.python_text import parse

# A place of a text that may change, (start, end), and what may stand there then: the draw takes one.
Site = tuple[int, int, list[str]]
Names = tuple[Sequence[str], Sequence[str]]  # names of a program, and neutral ones that may take their places
SHORTEST = 3  # letters of a word that may be misspelt
# Neutral names. Of arguments: not "a", which a docstring cannot tell from the article, and not i to n, which say much.
FUNCTIONS, CLASSES, ARGUMENTS = ("func", "func_2", "func_3"), ("Thing", "Thing_2", "Thing_3"), "pqrstuvwxyz"

# The docstring that a prompt ends in: of the function to be written, or of the module (MBPP).
_DOCSTRING = re.compile(r"""(\"""|''')(?P<text>(?:(?!\1).)*)\1\s*$""", re.DOTALL)
# What is code in a docstring: examples, and within the lines what is quoted, called, listed or given a value.
_CODE = r"""
    ^[ \t]*>>>.*(?:\n.*\S.*)*                     # up to the next blank line, as doctest reads it
    | ^.*(?:==|!=|=>|->|➞|→).*
    | ^[ \t]*(?:assert\b|(?:[Ii]n|[Oo]ut)puts?[ \t]*:).*
    | `[^`'\n]*'(?!\w) | `+[^`\n]*`+              # also in the manner of `this'
    | (?<!\w)'[^'\n]*'(?!\w) | "[^"\n]*"          # quoted; the apostrophe of "it's" opens nothing
    | \w[\w.]*\([^()\n]*\)                        # a call
    | \[[^\]\n]*\] | \{[^}\n]*\} | <[^<>\n]*>     # data, formats
    | [^\W\d_]\w*(?=\s*=(?!=))                    # what a value is given to
    | \w+:[\w/.\-?=&]+ | \\.                      # addresses, escapes
"""
# Letters alone: no part of an identifier, of a number, of "it's", of a dotted name, of an escape or of a call; and with
# no capital but the first, which leaves out "MAD", and no value of Python's.
_WORD = r"(?<![\w\\'@.])(?!True\b|False\b|None\b)[A-Za-z][a-z]*(?![\w'(]|\.\w)"
_CODE_OR_WORD = re.compile(f"(?:{_CODE}) | (?P<word>{_WORD})", re.VERBOSE | re.MULTILINE)
_CODE_OF_DOCSTRING = re.compile(_CODE, re.VERBOSE | re.MULTILINE)
# Pieces of a program: strings, comments, and names that stand behind no dot.
_PIECE = re.compile(
    r"""(?<!\w)[rbuf]{0,2}(\"""|'''|"|')(?:\\.|(?!\1).)*\1 | [#][^\n]* | (?<![\w.])[^\W\d]\w*""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


class Perturbed(NamedTuple):
    """What a perturbation made of a benchmark. The three counts add up to the benchmark's problems."""

    problems: list[Problem]  # those that changed, and no others
    unchanged: int  # it applies to them, but the draw left them as they were
    not_applicable: int  # it finds nothing to change in them at any rate


def perturb(problems: Sequence[Problem], name: str, *, rate: float, seed: int = 0) -> Perturbed:
    """The problems that perturbation `name` changes, and how many it does not.

    rate: the chance, 0 to 1, that a word (typos), a phrase (paraphrase) or a problem's names (rename_*) change. What
    changes at one rate also changes, in the same way, at every higher one.
    """
    found = [PERTURBATIONS[name](problem, rate, seed) for problem in problems]
    changed = [new for new, old in zip(found, problems, strict=True) if new not in (None, old)]
    not_applicable = found.count(None)
    return Perturbed(changed, len(found) - len(changed) - not_applicable, not_applicable)


# --- Words ---------------------------------------------------------------------------------------------------


def _reworded(
    sites_of: Callable[[str, set[str]], Iterable[Site]], problem: Problem, rate: float, seed: int
) -> Problem | None:
    """The problem with each site of its docstring changed at a chance of `rate`; None where it has no site.

    Code, examples, quotes, numbers and the program's names stay as they are.
    """
    prompt, docstring = problem.prompt, _DOCSTRING.search(problem.prompt)
    if not docstring:
        return None
    offset, names = docstring.start("text"), {*re.findall(r"\w+", prompt[: docstring.start()])}
    sites = sorted(sites_of(docstring["text"], names))
    for number, (start, end, options) in reversed([*enumerate(sites)]):
        draw = _draw(problem, sites_of.__name__, number, seed)
        if draw.random() < rate:
            prompt = prompt[: offset + start] + draw.choice(options) + prompt[offset + end :]
    return dataclasses.replace(problem, prompt=prompt) if sites else None


def typos(text: str, names: set[str]) -> Iterator[Site]:
    """Misspells each word of SHORTEST letters or more."""
    for match in _CODE_OR_WORD.finditer(text):
        if match["word"] and len(match["word"]) >= SHORTEST and match["word"] not in names:
            yield *match.span(), [word for word in misspellings(match["word"]) if word not in names]


def paraphrase(text: str, names: set[str]) -> Iterator[Site]:
    """Says each phrase that a rule knows otherwise; the meaning stays, the style may suffer."""
    taken = [code.span() for code in _CODE_OF_DOCSTRING.finditer(text)]
    for phrase, others in wording()["paraphrase"].items():
        for match in re.finditer(rf"\b{phrase}(?!(?<=\w)\w)", text, re.IGNORECASE):
            start, end = match.span()
            if names.isdisjoint(match[0].split()) and not any(a < end and start < b for a, b in taken):
                taken.append((start, end))
                capital = match[0][0].isupper()
                yield start, end, [other[0].upper() + other[1:] if capital else other for other in others]


def misspellings(word: str) -> list[str]:
    """The word with one slip of the hand behind its first letter: a letter becomes one beside it on the keyboard,
    changes places with the next, goes missing or comes twice.
    """
    found = []
    for i in range(1, len(word)):
        before, letter, behind = word[:i], word[i], word[i + 1 :]
        found += [before + slip + behind for slip in (*wording()["neighbours"][letter], "", 2 * letter)]
        if behind[:1] not in ("", letter):
            found.append(before + behind[0] + letter + behind[1:])
    return found


@functools.cache
def wording() -> dict[str, Json]:
    """neighbours: letter -> those beside, above and below it on a QWERTY keyboard, whose rows are each shifted by a
    half key; paraphrase: phrase -> others that mean the same in a programming task, the longest phrase first.
    """
    return json.loads(Path(__file__).with_name("wording.json").read_text())


def _draw(problem: Problem, name: str, site: int, seed: int) -> random.Random:
    """The generator of one site: whether it changes is its first draw, so the rate does not change how it changes."""
    return random.Random(f"{seed}/{name}/{problem.task_id}/{site}")


# --- Names ---------------------------------------------------------------------------------------------------


def rename_function(problem: Problem) -> Names:
    """Calls what the tests call `func`, or a class `Thing`. Not where its name is not told, special or neutral."""
    source = problem.prompt + (problem.reference or "")
    called = {*re.findall(r"^def (\w+)", source, re.MULTILINE)} & {*re.findall(r"\w+", problem.tests)}
    name = problem.entry_point or (called.pop() if len(called) == 1 else "")
    stays = not name or name.startswith("__") or name in FUNCTIONS + CLASSES
    return [] if stays else [name], CLASSES if name[:1].isupper() else FUNCTIONS


def rename_arguments(problem: Problem) -> Names:
    """Calls the arguments of the function to be written, the last of the prompt, p, q, r ...

    An argument of one letter is neutral already and stays, and so does one with a builtin's name that stands anywhere
    else in the prompt's code.
    """
    tree = parse(problem.prompt)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] if tree else []
    last = max(functions, key=lambda function: function.lineno, default=None)
    arguments = [node.arg for node in ast.walk(last.args) if isinstance(node, ast.arg)] if last else []
    code = re.findall(r"\w+", _DOCSTRING.sub("", problem.prompt))
    names = [
        name
        for name in arguments
        if len(name) > 1 and name != "self" and not (hasattr(builtins, name) and code.count(name) > 1)
    ]
    return names, ARGUMENTS


def _renamed(names_of: Callable[[Problem], Names], problem: Problem, rate: float, seed: int) -> Problem | None:
    """The problem with neutral names, at a chance of `rate`; None where it cannot be or nothing would change.

    Wherever a program of the problem says such a name it is another, so that what the program does stays. Not made
    where a name is imported, passed as a keyword or used in an f-string, and where a program is no Python.
    """
    names, neutral = names_of(problem)
    texts: dict[str, Any] = {
        f: getattr(problem, f) or "" for f in ("tests", "base_tests", "setup", "trusted", "reference")
    }
    used = set(re.findall(r"\w+", "\n".join((problem.prompt, *texts.values()))))
    new = dict(zip(names, (name for name in neutral if name not in used), strict=False))
    programs = [parse(source) for source in (problem.prompt + texts["reference"], problem.tests, problem.setup)]
    if len(new) < len(names) or not all(_is_safe(program, new) for program in programs):
        return None
    texts = {field: _PIECE.sub(lambda piece: new.get(piece[0], piece[0]), text) for field, text in texts.items()}
    prompt = _PIECE.sub(lambda piece: _in_prompt(piece[0], new), problem.prompt)
    if (prompt, texts["tests"]) == (problem.prompt, problem.tests):
        return None
    if _draw(problem, names_of.__name__, 0, seed).random() >= rate:
        return problem
    if problem.trusted == problem.prompt:
        texts["trusted"] = prompt
    if problem.reference is None:
        del texts["reference"]
    entry_point = problem.entry_point and new.get(problem.entry_point, problem.entry_point)
    return dataclasses.replace(problem, prompt=prompt, entry_point=entry_point, **texts)


def _in_prompt(piece: str, new: Mapping[str, str]) -> str:
    """A piece of a prompt with the new names. Names in docstrings change where they stand in code, but for texts of an
    example ("name"), and everywhere if they are no words of English by their letters.
    """
    if not piece.endswith(('"""', "'''")):
        return new.get(piece, piece)

    def renamed(word: re.Match[str]) -> str:
        return new.get(word[0], word[0])

    piece = re.sub(r"\w+", lambda word: word[0] if word[0].isalpha() else renamed(word), piece)
    return _CODE_OF_DOCSTRING.sub(lambda code: re.sub(r"""(?<![\w."'\\])\w+""", renamed, code[0]), piece)


def _is_safe(program: ast.Module | None, new: Mapping[str, str]) -> bool:
    """Whether a program is Python whose names can be replaced."""
    for node in ast.walk(program) if program else ():
        if isinstance(node, ast.keyword | ast.alias):
            named = {getattr(node, field, None) for field in ("arg", "name", "asname")}
        elif isinstance(node, ast.JoinedStr):
            named = {getattr(inner, "id", None) for inner in ast.walk(node)}
        else:
            continue
        if named & new.keys():
            return False
    return program is not None


PERTURBATIONS = {
    "typos": functools.partial(_reworded, typos),
    "paraphrase": functools.partial(_reworded, paraphrase),
    "rename_function": functools.partial(_renamed, rename_function),
    "rename_arguments": functools.partial(_renamed, rename_arguments),
}
