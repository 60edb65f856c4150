"""Runs checks of sandbox_checks.py: one program for each text, so that none can touch another's verdict."""

from __future__ import annotations

import dataclasses
import functools
import marshal
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox, Verdict
from phi_jax.synthesis.outputs import Fault

OTHER_HASH_SEED = 2  # of a second run of what uses sets: words stand there in another order than under the usual seed
_LONGEST = 500  # characters of a reason
TAMPERS = Fault("wrong_form", "it tampers with its check")
# What a check may say in the candidate's process, which the text shares.
_CODES = ("does_not_run", "too_slow", "reads_input", "wrong_example", "wrong_output", "test_fails", "varies")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Check:
    """An expression of sandbox_checks.py about one text."""

    call: str
    again: str  # what is run a second time, with sets in another order
    uses_sets: bool  # whether the order of a set may show, so that it is run again


def check(
    texts: Sequence[T],
    read: Callable[[T], Check | Fault],
    judge: Callable[[Any, Verdict, str], Fault | None],
    label: str,
    *,
    limits: Limits,
    confinement: str,
    workers: int,
) -> list[Fault | None]:
    """For each text None, or its fault: the same in every run.

    read: looks at a text without running it; a ValueError says why it cannot be read. judge: the fault that a verdict
    on a check shows; it may run more under the confinement. confinement: "full" or "none".
    """
    new_sandbox = functools.partial(Sandbox, limits=limits, workers=workers, confinement=confinement)
    checks = [_read(read, text) for text in texts]
    faults = [found if isinstance(found, Fault) else None for found in checks]
    running = {place: found for place, found in enumerate(checks) if isinstance(found, Check)}
    with new_sandbox() as sandbox, Progress(label, len(running), "texts") as bar:
        verdicts = sandbox.run(program(found.call) for found in running.values())
        for place, verdict in zip(running, verdicts, strict=True):
            faults[place] = judge(running[place], verdict, confinement)
            bar.advance()
    doubtful = {place: found.again for place, found in running.items() if found.uses_sets and faults[place] is None}
    with new_sandbox(hash_seed=OTHER_HASH_SEED) as sandbox:
        verdicts = sandbox.run(map(program, doubtful.values()))
        for place, verdict in zip(doubtful, verdicts, strict=True):
            if isinstance(found := said(verdict), Fault):
                faults[place] = Fault("varies", f"with sets in another order: {found.reason}")
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
    """What a check handed back, with a Fault as one; also a Fault where its process did not come to its end."""
    if not verdict.passed:
        code = "too_slow" if verdict.result == "timed out" else "does_not_run"
        return Fault(code, verdict.result.removeprefix("failed: "))
    return as_fault(verdict.value)


def as_fault(value: Any) -> Any:
    """(code, reason) as a Fault; anything else as it is."""
    match value:
        case (str(code), str(reason)):
            return Fault(code, _line(reason)) if code in _CODES else TAMPERS
    return value


def no_fault(check: Check, verdict: Verdict, confinement: str) -> Fault | None:
    """The fault that a check says there is, where it says no more."""
    found = said(verdict)
    return found if found is None or isinstance(found, Fault) else TAMPERS


def _line(text: str) -> str:
    """One line, without addresses, and printable in any encoding."""
    text = re.sub("0x[0-9a-fA-F]{4,}", "0x...", " ".join(text.split()))
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()
