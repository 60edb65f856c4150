"""Runs checks of sandbox_checks.py: one program for each text, so that none can touch another's verdict."""

from __future__ import annotations

import functools
import marshal
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from phi_jax.progress import Progress
from phi_jax.sandbox import Program, Sandbox, Verdict
from phi_jax.synthesis.outputs import Fault

OTHER_HASH_SEED = 2  # of the second run: the words in a set stand in another order than under the usual seed
_LONGEST = 500  # characters of a reason
_TAMPERS = Fault("wrong_form", "it tampers with its check")
# What a check may say in the candidate's process, which the text shares.
_CODES = (
    "does_not_run", "too_slow", "reads_input", "wrong_example", "wrong_output", "test_fails", "weak_tests", "varies",
)  # fmt: skip
_ENDS = ("does_not_run", "too_slow")  # codes of a program whose process ended early, among others

T = TypeVar("T")


class Check(NamedTuple):
    """A check of one text. Calls are expressions of sandbox_checks.py that give a fault or None."""

    call: str
    alone: str  # the call without mutants, any of which may end the process


def check(texts: Sequence[T], read: Callable[[T], Check | Fault], label: str, **box: Any) -> list[Fault | None]:
    """For each text None, or its fault: the same in every run. What passes is run again, with sets in another order.

    read: looks at a text without running it; a ValueError says why it cannot be read. box: arguments of the Sandbox.
    """
    checks = [_read(read, text) for text in texts]
    faults = [check if isinstance(check, Fault) else None for check in checks]
    runnable = {place: check for place, check in enumerate(checks) if isinstance(check, Check)}

    def run(calls: Mapping[int, str], what: str = "", hash_seed: int = 0) -> None:
        with Sandbox(hash_seed=hash_seed, **box) as sandbox, Progress(f"{label}{what}", len(calls), "texts") as bar:
            for place, verdict in zip(calls, sandbox.run(map(program, calls.values())), strict=True):
                faults[place] = fault_of(verdict)
                bar.advance()

    run({place: check.call for place, check in runnable.items()})
    alone = {place: check.alone for place, check in runnable.items()}
    # Was it the text that ended the process, or one of its mutants?
    ended = [place for place in alone if (fault := faults[place]) and fault.code in _ENDS]
    run({place: alone[place] for place in ended if alone[place] != runnable[place].call}, ", alone")
    passed = [place for place in alone if faults[place] is None]
    run({place: alone[place] for place in passed}, ", again", OTHER_HASH_SEED)
    for place in passed:
        if fault := faults[place]:
            faults[place] = Fault("varies", f"with sets in another order: {fault.reason}")
    return faults


def _read(read: Callable[[T], Check | Fault], text: T) -> Check | Fault:
    try:
        return read(text)
    except ValueError as error:
        return Fault("unreadable", _line(str(error)))
    except RecursionError:
        return Fault("unreadable", "it is nested too deeply")


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


def fault_of(verdict: Verdict) -> Fault | None:
    """The fault that a check handed back, or that its process did not come to its end."""
    return as_fault(said(verdict))


def as_fault(value: Any) -> Fault | None:
    """What a check handed back as a Fault or None. Anything that no check says is tampering."""
    match value:
        case None:
            return None
        case (str(code), str(reason)) if code in _CODES:
            return Fault(code, _line(reason))
    return _TAMPERS


def _line(text: str) -> str:
    """One line, without addresses, and printable in any encoding."""
    text = re.sub("0x[0-9a-fA-F]{4,}", "0x...", " ".join(text.split()))
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()
