"""Runs what a teacher wrote: every solution, every example, every line that a text says is printed."""

from __future__ import annotations

import ast
import functools
import marshal
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox, Verdict
from phi_jax.synthesis.grammar import Text, fixed_inputs

_BATCH = 40  # texts in one program; one that fails is run text by text
_LIMITS = Limits(wall_seconds=10.0, cpu_seconds=5.0)

# Each text is executed in a namespace of its own, with what it prints kept. One call a text gives all its results.
_CANDIDATE = """\
import contextlib, io

_loaded = []

def _load(code, name):
    namespace, out = {"__name__": "text"}, io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, namespace)
    _loaded.append((namespace[name], out.getvalue()))

def outcome(number, calls):
    function, printed = _loaded[number]
    return printed, [repr(function(*arguments)) for arguments in calls]

"""


def run_texts(texts: Sequence[Text], label: str, *, sandbox: str, workers: int) -> list[str | None]:
    """For each text None, or why it is set aside: what running it showed.

    A text is right when it runs, gives on the fixed inputs of its behaviour what the behaviour gives, gives what its
    examples state, and prints what it says it prints. sandbox: "full" or "none".
    """
    verdicts: list[str | None] = []
    with (
        Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox) as box,
        Progress(label, len(texts), "texts") as bar,
    ):
        batches = list(_batches(texts))
        for batch, verdict in zip(batches, box.run(map(_program, batches)), strict=True):
            if verdict.passed:
                verdicts += [None] * len(batch)
            else:
                verdicts += _one_by_one(box, batch)
            bar.advance(len(batch))
    return verdicts


def _one_by_one(box: Sandbox, batch: Sequence[Text]) -> list[str | None]:
    """The verdict of each text of a batch, each in a program of its own."""
    with Sandbox(limits=box.limits, workers=1, confinement=box.confinement) as alone:
        return [None if v.passed else v.result for v in alone.run(_program([text]) for text in batch)]


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _program(texts: Sequence[Text]) -> Program:
    candidate, tests = [_CANDIDATE], []
    for number, text in enumerate(texts):
        candidate.append(f"_load({text.code!r}, {text.entry_point!r})\n")
        known = text.known
        cases = [*zip(fixed_inputs(known.behaviour.signature), known.outputs, strict=True), *text.examples]
        calls, results = [list(arguments) for arguments, _ in cases], [result for _, result in cases]
        tests.append(
            f"printed, results = outcome({number}, {calls!r})\n"
            f"assert results == {results!r}, {text.entry_point!r} ' does not give what its text states'\n"
        )
        if text.printed is not None:
            tests.append(f"assert printed == {text.printed!r}, {text.entry_point!r} ' prints something else'\n")
    return Program(candidate="".join(candidate), tests="".join(tests), entry_point="outcome")


# --- Texts of an LLM: one program each, so that none can have a hand in another's verdict ------------------------

_SAID = "failed: said: "
OTHER_HASH_SEED = 2  # of a second run of what uses sets: words stand there in another order than under the usual seed


def confined_program(call: str) -> Program:
    """A program for one text: `call`, an expression of confined.py, says of it in the candidate what is wrong."""
    return Program(
        candidate=f"{_confined()}def outcome():\n    return {call}\n",
        tests='found = str(outcome())\nif found:\n    raise AssertionError(f"said: {found}")\n',
        entry_point="outcome",
    )


@functools.cache
def _confined() -> str:
    """Source that defines what confined.py does; compiled here once, which takes as long as running a text."""
    path = Path(__file__).with_name("confined.py")
    code = compile(path.read_text(encoding="utf-8"), "<confined>", "exec", dont_inherit=True)
    return f"import marshal\nexec(marshal.loads({marshal.dumps(code)!r}))\n"


def uses_sets(*trees: ast.AST) -> bool:
    """Whether the code may hold a set, so that what it gives may hang on the order of one."""
    nodes = (node for tree in trees for node in ast.walk(tree))
    return any(
        isinstance(node, ast.Set | ast.SetComp) or (isinstance(node, ast.Name) and node.id in ("set", "frozenset"))
        for node in nodes
    )


def said(verdict: Verdict) -> tuple[bool, str]:
    """(whether a `confined_program` came to its end, what it said; else how it ended)."""
    if verdict.passed:
        return True, ""
    if verdict.result.startswith(_SAID):
        return True, verdict.result.removeprefix(_SAID)
    return False, verdict.result.removeprefix("failed: ")
