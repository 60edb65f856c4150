"""The function that is asked for, or its arguments, under names that say nothing.

Prompt, reference and tests keep their text but for the names.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from phi_jax.evaluation.perturb.prose import (
    FUNCTIONS,
    Edit,
    applied,
    code_lines,
    defined,
    drawn,
    find_prose,
    parsed,
    span,
    string_inside,
)
from phi_jax.evaluation.problems import Problem

FUNCTION, CLASS = "func", "Thing"
# Not "a", which a docstring cannot tell from the article, and not i, j, k, l, n, which say something.
ARGUMENTS = "pqrstuvwxyz"

# In prose a name that is also a word, as in "return text without prefix", is taken for the name only behind these and
# in the singular: "a list of numbers" speaks of numbers, whatever the argument is called.
_BEFORE_A_NAME = re.compile(
    r"\b(returns?|gives?|computes?|if|whether|of|to|from|under|without|with|than|by|at|for|and|or|store|add|append|is|"
    r"(integer|string|list|array|number)s?|named|called|argument|parameter|variable|dictionary)\s+$|"
    r"([<>]=? ?|@|:param )$",
    re.IGNORECASE,
)
# Where even a plural is a name: "the numbers in items", "the numbers in values and others", "the keys of scores".
_BEFORE_A_PLURAL = re.compile(r"\b(in|in \w+ and|(values|keys|items) of)\s+$")
_CALLED = re.compile(r"\bfunction (called |named )?$")
_VALUE = re.compile(r"\s*=(?!=)|\s*[<>]=?\s|\[|\(")  # behind a name that is given a value, compared, indexed, called
_QUOTED = re.compile(r"""(?<![=(\[,])(?<![=(\[,]\s)['"`]\w+['"`]$""")  # but not data, as in value="value"
_NO_WORDS = {"arr", "num", "nums", "arrs", "dic", "elem", "elems", "idx", "var", "val", "vals", "func", "seq", "tup"}


class _Unsafe(Exception):
    """A renaming that could change what the program does."""


def _at_chance(
    name: str, renamed: Callable[[Problem], Problem | None], problem: Problem, rate: float, seed: int
) -> Problem | None:
    """The problem renamed, at a chance of `rate`; None where it cannot be."""
    try:
        changed = renamed(problem)
    except _Unsafe:
        return None
    return problem if changed and drawn(problem, name, 0, seed).random() >= rate else changed


def _neutral_function(problem: Problem) -> Problem | None:
    source = problem.prompt + (problem.reference or "")
    tree = parsed(source)
    name = tree and (problem.entry_point or _tested(tree, problem.tests))
    if not tree or not name or name.startswith("__") or name in (FUNCTION, CLASS):
        return None
    is_class = any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.walk(tree))
    new = {name: _fresh([CLASS if is_class else FUNCTION], problem)}
    edits = _code_edits(source, ast.walk(tree), new)
    for node in ast.walk(tree):
        inside = string_inside(source, node)
        if inside and inside[1] <= len(problem.prompt):
            edits |= {*_mentions(source, inside, name, new, _CALLED)}
    changed = _edited(problem, edits)
    tests, setup, trusted = (_renamed(text, new) for text in (problem.tests, problem.setup, changed.trusted))
    if changed.prompt == problem.prompt and tests == problem.tests:
        return None
    entry_point = new[name] if problem.entry_point else None
    return dataclasses.replace(changed, tests=tests, setup=setup, trusted=trusted, entry_point=entry_point)


def _neutral_arguments(problem: Problem) -> Problem | None:
    source = problem.prompt + (problem.reference or "")
    tree, tests, prose = parsed(source), parsed(problem.tests), find_prose(problem.prompt, problem.entry_point)
    if not tree or not tests or not prose:
        return None
    docstring = (prose.start, prose.start + len(prose.text))
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and docstring in [string_inside(source, statement) for statement in node.body]
    ]
    if not functions:
        return None
    (function,) = functions
    arguments = [a for a in ast.walk(function.args) if isinstance(a, ast.arg) and len(a.arg) > 1 and a.arg != "self"]
    new: dict[str, str] = {}
    for argument in arguments:
        new[argument.arg] = _fresh(ARGUMENTS, problem, new.values())
    if not new or new.keys() & {node.arg for node in ast.walk(tests) if isinstance(node, ast.keyword)}:
        return None
    body = ast.Module(function.body, [])  # annotations and defaults are of the scope around the function
    edits = _code_edits(source, [*arguments, *ast.walk(body)], new, function.name, set(defined(body)))
    for name in new:
        told = _BEFORE_A_PLURAL if name.endswith("s") else _BEFORE_A_NAME
        edits |= {*_mentions(source, docstring, name, new, told)}
    return _edited(problem, edits)


def _fresh(candidates: Iterable[str], problem: Problem, taken: Collection[str] = ()) -> str:
    """The first candidate that nothing in the problem is called; numbered where all are taken."""
    text = "\n".join((problem.prompt, problem.reference or "", problem.tests, problem.trusted, problem.setup))
    used = {*re.findall(r"\w+", text), *taken}
    numbered = (f"{candidate}_{number}" for number in itertools.count(2) for candidate in candidates)
    return next(name for name in itertools.chain(candidates, numbered) if name not in used)


def _tested(tree: ast.Module, tests: str) -> str | None:
    """The function of the program that the tests call, where they call one alone and no harness knows its name."""
    own = {node.name for node in tree.body if isinstance(node, FUNCTIONS)}
    called = {node.id for node in ast.walk(parsed(tests) or tree) if isinstance(node, ast.Name)} & own
    return called.pop() if len(called) == 1 else None


# --- Code ------------------------------------------------------------------------------------------------------


def _code_edits(
    source: str, nodes: Iterable[ast.AST], new: Mapping[str, str], function: str = "", local: Collection[str] = ()
) -> set[Edit]:
    """The places where one of these nodes binds or uses one of the names.

    function: whose calls pass renamed arguments by their names. local: functions of which that is not known. Raises
    _Unsafe where a renaming could change what the program does.
    """
    edits: set[Edit] = set()

    def add(name: str, start: int, end: int) -> None:
        place = re.compile(rf"\b{name}\b").search(source, start, end)
        if not place:  # within an f-string, whose places Python knows from 3.12 on
            raise _Unsafe
        edits.add((*place.span(), new[name]))

    for node in nodes:
        if isinstance(node, ast.Call):
            callee = getattr(node.func, "id", "")
            for keyword in node.keywords:
                name = keyword.arg or ""
                if name in new and callee == function:
                    add(name, *span(source, keyword))
                elif name in new and (not function or callee in local):
                    raise _Unsafe
        elif isinstance(node, ast.alias) and (node.asname or node.name) in new:
            raise _Unsafe
        elif not isinstance(node, ast.keyword | ast.alias):
            single = getattr(node, "id", getattr(node, "name", getattr(node, "arg", None)))
            for name in new.keys() & {single, *getattr(node, "names", ())}:
                start, end = span(source, node)
                before = getattr(node, "type", None) or getattr(node, "pattern", None)  # of "except E as name"
                add(name, span(source, before)[1] if before else start, end)
    return edits


def _renamed(source: str, new: Mapping[str, str]) -> str:
    """The source with the names replaced. Raises _Unsafe as _code_edits, and where it is no Python."""
    if not any(name in source for name in new):
        return source
    tree = parsed(source)
    if not tree:
        raise _Unsafe
    return applied(source, _code_edits(source, ast.walk(tree), new))


def _edited(problem: Problem, edits: Collection[Edit]) -> Problem:
    """The problem with these edits of prompt + reference. Raises _Unsafe where that is no Python."""
    behind = len(problem.prompt)
    prompt = applied(problem.prompt, [edit for edit in edits if edit[0] < behind])
    reference = problem.reference and applied(
        problem.reference, [(start - behind, end - behind, name) for start, end, name in edits if start >= behind]
    )
    if not parsed(prompt + (reference or "")):
        raise _Unsafe
    trusted = prompt if problem.trusted == problem.prompt else problem.trusted
    return dataclasses.replace(problem, prompt=prompt, reference=reference, trusted=trusted)


# --- Docstrings ------------------------------------------------------------------------------------------------


def _is_no_word(name: str) -> bool:
    """Whether English has no such word, as far as its letters tell: an underscore, a digit, a capital, no vowel."""
    return not name.isalpha() or not name.islower() or not re.search("[aeiouy]", name) or name in _NO_WORDS


def _mentions(
    source: str, inside: tuple[int, int], name: str, new: Mapping[str, str], told: re.Pattern[str]
) -> Iterator[Edit]:
    """The places where a name in a docstring must be the name.

    inside: of the docstring's text. told: the words that a name stands behind.
    """
    start, end = inside
    code = [(start + a, start + b) for a, b in code_lines(source[start:end])]
    for match in re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)").finditer(source, start, end):
        before, after = source[start : match.start()], source[match.end() : end]
        is_name = _is_no_word(name) or _VALUE.match(after)
        if any(a <= match.start() < b for a, b in code):
            line = before.rpartition("\n")[2]
            found: Any = is_name and not (line.count("'") % 2 or line.count('"') % 2)  # else in a string of an example
        else:
            found = is_name or told.search(before) or _QUOTED.search(f"{before}{name}{after[:1]}")
        if found:
            yield (*match.span(), new[name])


# Each is a perturbation (problem, rate, seed).
# Calls what the tests call `func` (a class `Thing`), in prompt, tests and reference. In a docstring the name goes where
# it is called or can be no word of English ("solve" the verb stays). None where the name cannot be told, is special or
# neutral already, or is used in a way that a renaming would break.
rename_function = functools.partial(_at_chance, "rename_function", _neutral_function)
# Calls the arguments of the function to be written p, q, r ... An argument of one letter is neutral already and stays.
# In the docstring a name goes where it must be one: in examples (`lst = [1, 2]`), in quotes, where it is no word of
# English, behind words like "return" and "string". None where the prompt has no signature with such an argument, where
# tests pass one by its name, or where it is used in a way that a renaming would break.
rename_arguments = functools.partial(_at_chance, "rename_arguments", _neutral_arguments)
