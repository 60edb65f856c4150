"""The function that is asked for, or its arguments, under names that say nothing."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import StringIO

from phi_jax.evaluation.perturb.prose import (
    Edit,
    Function,
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
_BEFORE_A_NAME = frozenset({
    "return", "returns", "give", "gives", "compute", "computes", "if", "whether", "of", "to", "from", "under",
    "without", "with", "than", "by", "at", "for", "and", "or", "store", "add", "append", "is", "integer",
    "integers", "string", "strings", "list", "lists", "array", "arrays", "number", "numbers", "named", "called",
    "argument", "parameter", "variable", "dictionary",
})  # fmt: skip
# Where even a plural is a name: "the numbers in items", "the numbers in values and others", "the keys of scores".
_BEFORE_A_PLURAL = re.compile(r"\b(?:in|in \w+ and|(?:values|keys|items) of)[ \n]+$")
_NO_WORDS = {"arr", "num", "nums", "arrs", "dic", "elem", "elems", "idx", "var", "val", "vals", "func", "seq", "tup"}


def rename_function(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Calls what the tests call `func` (a class `Thing`), at a chance of `rate`: in prompt, tests and reference.

    In a docstring the name goes where it is called or can be no word of English ("solve" the verb stays). None where
    the name cannot be told, is special or neutral already, or stands where a renaming could change what the program
    does.
    """
    name = problem.entry_point or _tested(problem)
    tree = parsed(problem.prompt)
    if not name or name.startswith("__") or not tree:
        return None
    is_class = any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.walk(tree))
    new = _fresh([CLASS if is_class else FUNCTION], problem)
    if name in (FUNCTION, CLASS):
        return None
    program = problem.prompt + (problem.reference or "")
    sources = [program, problem.tests, problem.trusted, problem.setup]
    edits = [_token_edits(source, {name: new}) for source in sources]
    if not edits[0] and not edits[1]:
        return None
    for source, changes in zip(sources, edits, strict=True):
        if name in source and not _same_program(source, applied(source, changes), {name: new}):
            return None
    if drawn(problem, "rename_function", 0, seed).random() >= rate:
        return problem
    mentions = [edit for start, end in _docstrings(tree, problem.prompt)
                for edit in _calls_in_text(problem.prompt, start, end, name, new)]  # fmt: skip
    prompt, reference = _split(problem, [*edits[0], *mentions])
    tests, trusted, setup = (applied(source, changes) for source, changes in zip(sources[1:], edits[1:], strict=True))
    return dataclasses.replace(
        problem,
        prompt=prompt,
        reference=reference,
        tests=tests,
        trusted=prompt if problem.trusted == problem.prompt else trusted,
        setup=setup,
        entry_point=new if problem.entry_point else None,
    )


def rename_arguments(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Calls each argument of the function to be written p, q, r ..., at a chance of `rate` each.

    An argument of one letter is neutral already and stays. In the docstring a name goes where it must be one: in
    examples (`lst = [1, 2]`), in quotes, where it is no word of English, behind words like "return" and "string".
    None where the prompt has no signature with such an argument, where tests pass one by its name, or where a renaming
    could change what the program does.
    """
    prose = find_prose(problem.prompt, problem.entry_point)
    program = problem.prompt + (problem.reference or "")
    shown, tree, tests = parsed(problem.prompt), parsed(program), parsed(problem.tests)
    function = _last_function(shown) if shown else None
    if not prose or not function or not tree or not tests:
        return None
    names = [argument.arg for argument in _arguments(function) if len(argument.arg) > 1 and argument.arg != "self"]
    passed = {node.arg for node in ast.walk(tests) if isinstance(node, ast.keyword)}
    if not names or passed & set(names):
        return None
    every: dict[str, str] = {}
    for name in names:
        every[name] = _fresh(ARGUMENTS, problem, every.values())
    if _argument_edits(program, tree, function.lineno, every) is None:
        return None
    new = {name: every[name] for i, name in enumerate(names)
           if drawn(problem, "rename_arguments", i, seed).random() < rate}  # fmt: skip
    edits = _argument_edits(program, tree, function.lineno, new)
    if edits is None:
        return None
    for name, neutral in new.items():
        edits += [(prose.start + start, prose.start + end, neutral) for start, end in _mentions(prose, name)]
    prompt, reference = _split(problem, edits)
    trusted = prompt if problem.trusted == problem.prompt else problem.trusted
    return dataclasses.replace(problem, prompt=prompt, reference=reference, trusted=trusted)


def _split(problem: Problem, edits: list[Edit]) -> tuple[str, str | None]:
    """Prompt and reference with the edits, which count from the start of the prompt, made."""
    border = len(problem.prompt)
    prompt = applied(problem.prompt, [edit for edit in edits if edit[0] < border])
    if problem.reference is None:
        return prompt, None
    behind = [(start - border, end - border, new) for start, end, new in edits if start >= border]
    return prompt, applied(problem.reference, behind)


def _fresh(candidates: Iterable[str], problem: Problem, taken: Collection[str] = ()) -> str:
    """The first candidate that nothing in the problem is called; numbered where all are taken."""
    text = "\n".join((problem.prompt, problem.reference or "", problem.tests, problem.trusted, problem.setup))
    used = {*re.findall(r"\w+", text), *taken}
    numbered = (f"{candidate}_{number}" for number in itertools.count(2) for candidate in candidates)
    return next(name for name in itertools.chain(candidates, numbered) if name not in used)


def _tested(problem: Problem) -> str | None:
    """The function of the reference that the tests call, where they call one alone and no harness knows its name."""
    program = problem.prompt + (problem.reference or "")
    tree, tests = parsed(program), parsed(problem.tests)
    if not tree or not tests:
        return None
    own = {node.name for node in tree.body if isinstance(node, Function)}
    called = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)} & own
    return called.pop() if len(called) == 1 else None


# --- Code ----------------------------------------------------------------------------------------------------


def _token_edits(source: str, new: Mapping[str, str]) -> list[Edit]:
    """Every use of the names in code, but for attributes."""
    if not any(name in source for name in new):
        return []
    starts = [0]
    for line in StringIO(source, newline=""):  # the lines that tokenize counts
        starts.append(starts[-1] + len(line))
    edits: list[Edit] = []
    before = ""
    try:
        for token in tokenize.generate_tokens(StringIO(source, newline="").readline):
            if token.type == tokenize.NAME and token.string in new and before != ".":
                start = starts[token.start[0] - 1] + token.start[1]
                edits.append((start, start + len(token.string), new[token.string]))
            before = token.string
    except (tokenize.TokenError, SyntaxError):
        return []
    return edits


class _Renamer(ast.NodeTransformer):
    """What a renaming does to a tree: the names in `new`, wherever they are bound or used, and no attribute."""

    def __init__(self, new: Mapping[str, str]) -> None:
        self.new = new

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.new.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self.new.get(node.arg, node.arg)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self.new.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self.new.get(node.name, node.name)
        return self.generic_visit(node)


def _same_program(source: str, changed: str, new: Mapping[str, str]) -> bool:
    """Whether `changed` is `source` with the names replaced: false for what only a tree can tell, as an f-string is."""
    before, after = parsed(source), parsed(changed)
    return before is not None and after is not None and ast.dump(_Renamer(new).visit(before)) == ast.dump(after)


def _last_function(tree: ast.Module) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    body: list[ast.stmt] = tree.body
    found = None
    while body and isinstance(body[-1], (*Function, ast.ClassDef)):
        if isinstance(body[-1], Function):
            found = body[-1]
        body = body[-1].body
    return found


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.arg]:
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg):
            yield node


def _argument_edits(program: str, tree: ast.Module, line: int, new: Mapping[str, str]) -> list[Edit] | None:
    """The edits that rename arguments of the function at `line` within it; None where they may not do just that.

    Annotations and defaults are of the scope around it and stay.
    """
    function = next(node for node in ast.walk(tree) if isinstance(node, Function) and node.lineno == line)
    edits: list[Edit] = []
    for argument in _arguments(function):
        if argument.arg in new:
            start, _ = span(program, argument)
            edits.append((start, start + len(argument.arg), new[argument.arg]))
    for node in (node for statement in function.body for node in ast.walk(statement)):
        if isinstance(node, ast.Name) and node.id in new:
            edits.append((*span(program, node), new[node.id]))
        elif isinstance(node, ast.Call) and any(keyword.arg in new for keyword in node.keywords):
            own = isinstance(node.func, ast.Name) and node.func.id == function.name
            for keyword in node.keywords:
                if own and keyword.arg and keyword.arg in new:
                    start, _ = span(program, keyword)
                    edits.append((start, start + len(keyword.arg), new[keyword.arg]))
        elif set(_bound_otherwise(node)) & set(new):
            return None
    # The tree's places are wrong within f-strings before Python 3.12.
    if any(new.get(program[start:end]) != name for start, end, name in edits):
        return None
    changed = applied(program, edits)
    return edits if parsed(changed) else None


def _bound_otherwise(node: ast.AST) -> Iterator[str]:
    """Names that a node binds, or declares, where its place in the text is not the node's."""
    if isinstance(node, (*Function, ast.ClassDef)):
        yield node.name
    if isinstance(node, (*Function, ast.Lambda)):
        yield from defined(node.args)
    elif isinstance(node, ast.alias):
        yield node.asname or node.name
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        yield node.name or ""
    elif isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names


# --- Docstrings ----------------------------------------------------------------------------------------------


def _docstrings(tree: ast.AST, source: str) -> Iterator[tuple[int, int]]:
    """Where the texts of all docstrings are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            start, end = span(source, node.value)
            inside = string_inside(source[start:end])
            if inside:
                yield start + inside[0], start + inside[1]


def _is_no_word(name: str) -> bool:
    """Whether English has no such word, as far as its letters tell: an underscore, a digit, a capital, no vowel."""
    return not name.isalpha() or not name.islower() or not re.search("[aeiouy]", name) or name in _NO_WORDS


def _calls_in_text(source: str, start: int, end: int, name: str, new: str) -> Iterator[Edit]:
    """The function's name in a docstring: where it is called or called so, in backticks, wherever it is no word."""
    for match in re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)").finditer(source, start, end):
        ticks = source[match.start() - 1] == "`" and source[match.end() : match.end() + 1] in ("`", "'")
        called = re.search(r"function (?:called |named )?$", source[: match.start()])
        if _is_no_word(name) or ticks or called or source[match.end() : match.end() + 1] == "(":
            yield (*match.span(), new)


def _mentions(prose: Prose, name: str) -> Iterator[tuple[int, int]]:
    """Where an argument's name in the docstring must be the name; see rename_arguments."""
    text = prose.text
    for match in re.finditer(rf"(?<![\w.]){re.escape(name)}(?!\w)", text):
        start, end = match.span()
        before, after = text[max(start - 1, 0) : start], text[end : end + 1]
        given = re.search(r"[=(\[,]\s*$", text[: start - 1])  # as in value="value": data
        quoted = before in ("'", '"', "`") and after in ("'", '"', "`") and not given
        if any(a <= start < b for a, b in prose.code):
            line = text[text.rfind("\n", 0, start) + 1 : start]
            data = line.count("'") % 2 or line.count('"') % 2  # within a string of an example
            if not data and (_is_no_word(name) or re.match(r"\s*=(?!=)|\[", text[end:])):
                yield start, end
            continue
        previous = re.search(r"([A-Za-z]+)[ \n]+$", text[:start])
        if name.endswith("s"):
            bare = _BEFORE_A_PLURAL.search(text, 0, start) is not None
        else:
            bare = previous is not None and previous.group(1).lower() in _BEFORE_A_NAME
        value = re.match(r"\s*(=(?!=)|[<>]=?\s)|\[", text[end:]) or re.search(r"[<>]=? ?$|@$|:param $", text[:start])
        if quoted or _is_no_word(name) or bare or value:
            yield start, end
