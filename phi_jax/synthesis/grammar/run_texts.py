"""Runs what the grammar wrote: every solution, every example, every line that a text says is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox, Verdict
from phi_jax.synthesis.grammar.catalogue import fixed_inputs
from phi_jax.synthesis.grammar.grammar_texts import Example, Text
from phi_jax.synthesis.outputs import Fault, chunks

_BATCH = 40  # texts in one program: each start of a process costs more than running a text
_LIMITS = Limits(wall_seconds=10.0, cpu_seconds=5.0, report_bytes=1 << 20)

# Each text is executed in a namespace of its own. It is ours, so it may say itself what it showed.
_CANDIDATE = """\
import contextlib, io

def _run(code, name, calls):
    namespace, out = {"__name__": "text"}, io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
        return out.getvalue(), [repr(namespace[name](*arguments)) for arguments in calls]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def report():
    return [_run(*text) for text in TEXTS]

"""


def run_texts(texts: Sequence[Text], label: str, *, sandbox: str, workers: int) -> list[Fault | None]:
    """For each text None, or why it is set aside: what running it showed.

    A text is right when it runs, gives on the fixed inputs of its behaviour what the behaviour gives, gives what its
    examples state, and prints what it says it prints. sandbox: "full" or "none".
    """
    faults: list[Fault | None] = []
    batches = list(chunks(texts, _BATCH))
    with (
        Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox) as box,
        Progress(label, len(texts), "texts") as bar,
    ):
        for batch, verdict in zip(batches, box.run(map(_program, batches)), strict=True):
            faults += map(_fault, batch, verdict.value) if verdict.passed else _of_all(batch, verdict)
            bar.advance(len(batch))
    return faults


def _program(texts: Sequence[Text]) -> Program:
    runs = [(text.code, text.entry_point, [arguments for arguments, _ in _cases(text)]) for text in texts]
    return Program(candidate=f"{_CANDIDATE}TEXTS = {runs!r}\n", tests="", entry_point=None, report="report")


def _cases(text: Text) -> list[Example]:
    """The calls of a text with their results: the fixed inputs, and its examples."""
    inputs = fixed_inputs(text.known.behaviour.signature)
    return [*zip(inputs, text.known.outputs, strict=True), *text.examples]


def _fault(text: Text, shown: Any) -> Fault | None:
    if isinstance(shown, str):
        return Fault("does_not_run", shown)
    printed, results = shown
    if results != [result for _, result in _cases(text)]:
        return Fault("wrong_example", f"{text.entry_point} does not give what its text states")
    if text.printed not in (None, printed):
        return Fault("wrong_output", f"{text.entry_point} prints something else")
    return None


def _of_all(texts: Sequence[Text], verdict: Verdict) -> list[Fault | None]:
    code = "too_slow" if verdict.result == "timed out" else "does_not_run"
    return [Fault(code, verdict.result)] * len(texts)
