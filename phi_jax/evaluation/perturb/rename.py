"""The function that is asked for, or its arguments, under names that say nothing.

The prompt keeps its text but for the names; reference and tests are made anew from their trees.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import textwrap
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
_NO_WORDS = {"arr", "num", "nums", "arrs", "dic", "elem", "elems", "idx", "var", "val", "vals", "func", "seq", "tup"}


def rename_function(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Calls what the tests call `func` (a class `Thing`), at a chance of `rate`: in prompt, tests and reference.

    In a docstring the name goes where it is called or can be no word of English ("solve" the verb stays). None where
    the name cannot be told, is special or neutral already, or is used in a way that a renaming would break.
    """
    name, shown = problem.entry_point or _tested(problem), parsed(problem.prompt)
    if not name or not shown or name.startswith("__") or name in (FUNCTION, CLASS):
        return None
    is_class = any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.walk(shown))
    new = {name: _fresh([CLASS if is_class else FUNCTION], problem)}
    edits = _code_edits(problem.prompt, ast.walk(shown), new)
    for node in ast.walk(shown):
        inside = string_inside(problem.prompt, node)
        edits += [(*place, new[name]) for place in _mentions(problem.prompt, inside, name, _CALLED)] if inside else []
    changed = _changed(problem, edits, shown, lambda tree: _rename([tree], new))
    tests, trusted, setup = (_renamed(source, new) for source in (problem.tests, problem.trusted, problem.setup))
    if not changed or tests is None or trusted is None or setup is None:
        return None
    if changed.prompt == problem.prompt and tests == problem.tests:
        return None
    if changed.trusted == problem.trusted:
        changed = dataclasses.replace(changed, trusted=trusted)
    entry_point = new[name] if problem.entry_point else None
    changed = dataclasses.replace(changed, tests=tests, setup=setup, entry_point=entry_point)
    return changed if drawn(problem, "rename_function", 0, seed).random() < rate else problem


def rename_arguments(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Calls the arguments of the function to be written p, q, r ..., at a chance of `rate`.

    An argument of one letter is neutral already and stays. In the docstring a name goes where it must be one: in
    examples (`lst = [1, 2]`), in quotes, where it is no word of English, behind words like "return" and "string".
    None where the prompt has no signature with such an argument, where tests pass one by its name, or where it is used
    in a way that a renaming would break.
    """
    prose = find_prose(problem.prompt, problem.entry_point)
    shown, tests = parsed(problem.prompt), parsed(problem.tests)
    function = _last_function(shown) if shown else None
    if not prose or not shown or not function or not tests:
        return None
    arguments = [a for a in ast.walk(function.args) if isinstance(a, ast.arg) and len(a.arg) > 1 and a.arg != "self"]
    new: dict[str, str] = {}
    for argument in arguments:
        new[argument.arg] = _fresh(ARGUMENTS, problem, new.values())
    if not new or new.keys() & {node.arg for node in ast.walk(tests) if isinstance(node, ast.keyword)}:
        return None
    body = (node for statement in function.body for node in ast.walk(statement))
    edits = _code_edits(problem.prompt, [*arguments, *body], new)
    docstring = (prose.start, prose.start + len(prose.text))
    for name in new:
        told = _BEFORE_A_PLURAL if name.endswith("s") else _BEFORE_A_NAME
        edits += [(*place, new[name]) for place in _mentions(problem.prompt, docstring, name, told)]
    changed = _changed(problem, edits, shown, lambda tree: _rename_within(tree, function.lineno, new))
    return changed if not changed or drawn(problem, "rename_arguments", 0, seed).random() < rate else problem


def _fresh(candidates: Iterable[str], problem: Problem, taken: Collection[str] = ()) -> str:
    """The first candidate that nothing in the problem is called; numbered where all are taken."""
    text = "\n".join((problem.prompt, problem.reference or "", problem.tests, problem.trusted, problem.setup))
    used = {*re.findall(r"\w+", text), *taken}
    numbered = (f"{candidate}_{number}" for number in itertools.count(2) for candidate in candidates)
    return next(name for name in itertools.chain(candidates, numbered) if name not in used)


def _tested(problem: Problem) -> str | None:
    """The function of the reference that the tests call, where they call one alone and no harness knows its name."""
    tree, tests = parsed(problem.prompt + (problem.reference or "")), parsed(problem.tests)
    if not tree or not tests:
        return None
    own = {node.name for node in tree.body if isinstance(node, FUNCTIONS)}
    called = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)} & own
    return called.pop() if len(called) == 1 else None


def _last_function(tree: ast.Module) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    body: list[ast.stmt] = tree.body
    found = None
    while body and isinstance(body[-1], (*FUNCTIONS, ast.ClassDef)):
        if isinstance(body[-1], FUNCTIONS):
            found = body[-1]
        body = body[-1].body
    return found


# --- Code ------------------------------------------------------------------------------------------------------


def _code_edits(source: str, nodes: Iterable[ast.AST], new: Mapping[str, str]) -> list[Edit]:
    """The places in a prompt's code where one of these nodes binds or uses one of the names."""
    edits: list[Edit] = []
    for node in nodes:
        name = getattr(node, "id", getattr(node, "name", getattr(node, "arg", "")))
        if name in new and not isinstance(node, ast.keyword | ast.alias):
            start, end = span(source, node)
            place = re.compile(rf"\b{name}\b").search(source, start, end)  # behind "def" or "class"
            edits += [(*place.span(), new[name])] if place else []
    return edits


def _rename(trees: Iterable[ast.AST], new: Mapping[str, str], function: str = "", local: Collection[str] = ()) -> bool:
    """Renames in place; whether that keeps what the program does.

    function: whose calls pass renamed arguments by their names. local: functions of which that is not known.
    """
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Call):
            callee = getattr(node.func, "id", None)  # renamed already, where it is one of the names
            for keyword in node.keywords:
                name = keyword.arg or ""
                if name in new and (not function or (callee in local and callee != function)):
                    return False
                if name in new and callee == function:
                    keyword.arg = new[name]
        elif isinstance(node, ast.alias):
            if (node.asname or node.name) in new:
                return False
        elif isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [new.get(name, name) for name in node.names]
        elif not isinstance(node, ast.keyword):
            for field in ("id", "name", "arg"):
                bound: Any = getattr(node, field, None)
                if bound in new:
                    setattr(node, field, new[bound])
    return True


def _rename_within(tree: ast.Module, line: int, new: Mapping[str, str]) -> bool:
    """Renames arguments of the function at `line` in it. Annotations and defaults are of the scope around it."""
    function = next(node for node in ast.walk(tree) if isinstance(node, FUNCTIONS) and node.lineno == line)
    return _rename(function.body, new, function.name, set(defined(ast.Module(function.body, []))))


def _renamed(source: str, new: Mapping[str, str]) -> str | None:
    """The source with the names replaced; None where a renaming would break it."""
    if not any(name in source for name in new):
        return source
    tree = parsed(source)
    return ast.unparse(tree) if tree and _rename([tree], new) else None


def _changed(
    problem: Problem, edits: Iterable[Edit], shown: ast.Module, rename: Callable[[ast.Module], bool]
) -> Problem | None:
    """The problem with these edits of its prompt, and the reference behind it renamed; None where that is no program.

    shown: the tree of the prompt as it was.
    """
    prompt = applied(problem.prompt, edits)
    tree = parsed(problem.prompt + (problem.reference or ""))
    if not tree or not rename(tree):
        return None
    reference = _behind(shown.body, tree.body)
    if not parsed(prompt + reference):
        return None
    kept = None if problem.reference is None else reference
    trusted = prompt if problem.trusted == problem.prompt else problem.trusted
    return dataclasses.replace(problem, prompt=prompt, reference=kept, trusted=trusted)


def _behind(shown: list[ast.stmt], whole: list[ast.stmt]) -> str:
    """The source of what a program has behind the statements of its prompt."""
    last, rest, text = shown[-1], whole[len(shown) :], ""
    if isinstance(last, (*FUNCTIONS, ast.ClassDef)):
        text = _behind(last.body, whole[len(shown) - 1].body)  # type: ignore[attr-defined]
    if rest:
        text += textwrap.indent(ast.unparse(ast.Module(rest, [])), " " * last.col_offset) + "\n"
    return text


# --- Docstrings ------------------------------------------------------------------------------------------------


def _is_no_word(name: str) -> bool:
    """Whether English has no such word, as far as its letters tell: an underscore, a digit, a capital, no vowel."""
    return not name.isalpha() or not name.islower() or not re.search("[aeiouy]", name) or name in _NO_WORDS


def _mentions(source: str, inside: tuple[int, int], name: str, told: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where a name in a docstring must be the name.

    inside: of the docstring's text. told: the words that a name stands behind.
    """
    start, end = inside
    code = [(start + a, start + b) for a, b in code_lines(source[start:end])]
    for match in re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)").finditer(source, start, end):
        before, after = source[start : match.start()], source[match.end() : end]
        is_name = _is_no_word(name) or _VALUE.match(after)
        if any(a <= match.start() < b for a, b in code):
            line = before.rpartition("\n")[2]
            if is_name and not (line.count("'") % 2 or line.count('"') % 2):  # else within a string of an example
                yield match.span()
            continue
        data = re.search(r"[=(\[,]\s*$", before[:-1])  # as in value="value"
        quoted = before[-1:] in tuple("'\"`") and after[:1] in tuple("'\"`") and not data
        if quoted or is_name or told.search(before):
            yield match.span()
