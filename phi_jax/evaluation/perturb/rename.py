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

from phi_jax.evaluation.perturb.prose import (
    FUNCTIONS,
    Edit,
    Prose,
    applied,
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
    r"(integer|string|list|array|number)s?|named|called|argument|parameter|variable|dictionary)\s+$",
    re.IGNORECASE,
)
# Where even a plural is a name: "the numbers in items", "the numbers in values and others", "the keys of scores".
_BEFORE_A_PLURAL = re.compile(r"\b(in|in \w+ and|(values|keys|items) of)\s+$")
_VALUE = re.compile(r"\s*=(?!=)|\s*[<>]=?\s|\[")  # behind a name that a docstring gives a value, compares or indexes
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
    edits = [
        *_code_edits(problem.prompt, ast.walk(shown), new),
        *_calls_in_text(problem.prompt, shown, name, new[name]),
    ]
    prompt = applied(problem.prompt, edits)
    reference = _reference(problem, prompt, shown, lambda tree: _rename([tree], new))
    tests, trusted, setup = (_renamed(source, new) for source in (problem.tests, problem.trusted, problem.setup))
    if reference is None or tests is None or trusted is None or setup is None:
        return None
    if (prompt, tests) == (problem.prompt, problem.tests):
        return None
    if drawn(problem, "rename_function", 0, seed).random() >= rate:
        return problem
    return dataclasses.replace(
        problem,
        prompt=prompt,
        reference=None if problem.reference is None else reference,
        tests=tests,
        trusted=prompt if problem.trusted == problem.prompt else trusted,
        setup=setup,
        entry_point=new[name] if problem.entry_point else None,
    )


def rename_arguments(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Calls each argument of the function to be written p, q, r ..., at a chance of `rate` each.

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
    every: dict[str, str] = {}
    for argument in arguments:
        every[argument.arg] = _fresh(ARGUMENTS, problem, every.values())
    if not every or every.keys() & {node.arg for node in ast.walk(tests) if isinstance(node, ast.keyword)}:
        return None

    def renamed(new: Mapping[str, str]) -> Problem | None:
        body = (node for statement in function.body for node in ast.walk(statement))
        edits = _code_edits(problem.prompt, [*arguments, *body], new)
        for name in new:
            edits += [(prose.start + a, prose.start + b, new[name]) for a, b in _mentions(prose, name)]
        prompt = applied(problem.prompt, edits)
        reference = _reference(problem, prompt, shown, lambda tree: _rename_within(tree, function.lineno, new))
        if reference is None:
            return None
        trusted = prompt if problem.trusted == problem.prompt else problem.trusted
        kept = None if problem.reference is None else reference
        return dataclasses.replace(problem, prompt=prompt, reference=kept, trusted=trusted)

    chosen = [drawn(problem, "rename_arguments", i, seed).random() < rate for i in range(len(every))]
    if renamed(every) is None:
        return None
    new = dict(itertools.compress(every.items(), chosen))
    return renamed(new) if new else problem


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
                if keyword.arg in new and (not function or (callee in local and callee != function)):
                    return False
                if keyword.arg in new and callee == function:
                    keyword.arg = new[keyword.arg]
        elif isinstance(node, ast.alias):
            if (node.asname or node.name) in new:
                return False
        elif isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [new.get(name, name) for name in node.names]
        elif not isinstance(node, ast.keyword):
            for field in ("id", "name", "arg"):
                if getattr(node, field, None) in new:
                    setattr(node, field, new[getattr(node, field)])
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


def _reference(problem: Problem, prompt: str, shown: ast.Module, rename: Callable[[ast.Module], bool]) -> str | None:
    """The reference behind the changed prompt, "" where there is none; None where that makes no program.

    shown: the tree of the prompt as it was.
    """
    tree = parsed(problem.prompt + (problem.reference or ""))
    if not tree or not rename(tree):
        return None
    reference = _behind(shown.body, tree.body)
    return reference if parsed(prompt + reference) else None


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


def _calls_in_text(source: str, tree: ast.Module, name: str, new: str) -> Iterator[Edit]:
    """The function's name in a docstring: where it is called or called so, in backticks, wherever it is no word."""
    docstrings = [string_inside(source, node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    for start, end in filter(None, docstrings):
        for match in re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)").finditer(source, start, end):
            before, after = source[: match.start()], source[match.end() : match.end() + 1]
            ticks = before[-1] == "`" and after in ("`", "'")
            if _is_no_word(name) or ticks or after == "(" or re.search(r"function (called |named )?$", before):
                yield (*match.span(), new)


def _mentions(prose: Prose, name: str) -> Iterator[tuple[int, int]]:
    """Where an argument's name in the docstring must be the name; see rename_arguments."""
    for match in re.finditer(rf"(?<![\w.]){re.escape(name)}(?!\w)", prose.text):
        start, end = match.span()
        before, after = prose.text[:start], prose.text[end:]
        is_name = _is_no_word(name) or _VALUE.match(after)
        if any(a <= start < b for a, b in prose.code):
            line = before.rpartition("\n")[2]
            if is_name and not (line.count("'") % 2 or line.count('"') % 2):  # else within a string of an example
                yield start, end
            continue
        data = re.search(r"[=(\[,]\s*$", before[:-1])  # as in value="value"
        quoted = before[-1:] in tuple("'\"`") and after[:1] in tuple("'\"`") and not data
        marked = re.search(r"([<>]=? ?|@|:param )$", before)
        told = (_BEFORE_A_PLURAL if name.endswith("s") else _BEFORE_A_NAME).search(before)
        if quoted or is_name or marked or told:
            yield start, end
