"""Runs what a teacher wrote: every solution, every example, every line that a text says is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox
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
