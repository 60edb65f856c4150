"""Runs checks of sandbox_checks.py: one program for each text, so that none can touch another's verdict."""

import functools
import marshal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox, Verdict
from phi_jax.sandbox.tester import clean
from phi_jax.synthesis.llm.examples import UNREADABLE
from phi_jax.synthesis.outputs import Fault

OTHER_HASH_SEED = 2  # of the second run: the words in a set stand in another order than under the usual seed
TAMPERS = Fault("wrong_form", "it tampers with its check")
_LIMITS = Limits(wall_seconds=20.0, cpu_seconds=6.0)
# What a check may say in the candidate's process, which the text shares.
_CODES = ("does_not_run", "too_slow", "wrong_example", "wrong_output", "test_fails")

T = TypeVar("T")


def check(texts: Sequence[T], read: Callable[[T], str | Fault], label: str, **box: Any) -> list[Fault | None]:
    """For each text None, or its fault: the same in every run. What passes is run again, with sets in another order.

    read: gives the call that checks a text, an expression of sandbox_checks.py, or the fault that shows without running
    it; it may raise one of UNREADABLE. box: `sandbox` and `workers` of `run`.
    """
    calls = [_read(read, text) for text in texts]
    faults = [call if isinstance(call, Fault) else None for call in calls]
    for hash_seed in (0, OTHER_HASH_SEED):
        left = [place for place, fault in enumerate(faults) if fault is None]
        again = ", again" if hash_seed else ""
        told = run([str(calls[place]) for place in left], f"{label}{again}", hash_seed=hash_seed, **box)
        for place, value in zip(left, told, strict=True):
            fault = faults[place] = as_fault(value)
            if fault and hash_seed:
                faults[place] = Fault("varies", f"with sets in another order: {fault.reason}")
    return faults


def _read(read: Callable[[T], str | Fault], text: T) -> str | Fault:
    try:
        return read(text)
    except UNREADABLE as error:
        return Fault("unreadable", clean(str(error) or type(error).__name__))


def run(calls: Sequence[str], label: str, *, sandbox: str, workers: int, hash_seed: int = 0) -> Iterator[Any]:
    """What each call hands back: expressions of sandbox_checks.py, each in processes of its own; see `said`.

    sandbox: "full" or "none".
    """
    box = Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox, hash_seed=hash_seed)
    with box, Progress(label, len(calls), "programs") as bar:
        for verdict in box.run(map(program, calls)):
            bar.advance()
            yield said(verdict)


def program(call: str) -> Program:
    """The program that hands back what `call`, an expression of sandbox_checks.py, gives."""
    return Program(f"{_source()}def report():\n    return {call}\n", tests="", entry_point=None, report="report")


@functools.cache
def _source() -> str:
    """Source that defines what sandbox_checks.py does; compiled here once, which takes as long as running a text."""
    path = Path(__file__).with_name("sandbox_checks.py")
    code = compile(path.read_text(encoding="utf-8"), "<checks>", "exec", dont_inherit=True)
    return f"import marshal\nexec(marshal.loads({marshal.dumps(code)!r}))\n"


def said(verdict: Verdict) -> Any:
    """What a check handed back; a Fault where its process did not come to its end."""
    if verdict.passed:
        return verdict.value
    code = "too_slow" if verdict.result == "timed out" else "does_not_run"
    return Fault(code, verdict.result.removeprefix("failed: "))


def as_fault(value: Any) -> Fault | None:
    """What `said` gives as a Fault or None. Anything that no check says is tampering."""
    match value:
        case None:
            return None
        case (str(code), str(reason)) if code in _CODES:
            return Fault(code, clean(reason))
    return TAMPERS
