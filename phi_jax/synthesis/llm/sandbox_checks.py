"""What runs in the sandbox's candidate process for ONE text: its blocks, or its tests and mutants.

run_checks.py sends this file's source ahead of the text, so it imports only what the fork server has loaded. A check
returns None, or (code, reason) as outputs.Fault has them. Nothing here is safe from the text, which shares the process
and may patch every line; it can gain only its own verdict, because no other text is in this process.
"""

import contextlib
import functools
import io
import random
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

Example = tuple[str, str, str | None]
"""Of a docstring or a session: source, what it prints, "Error: text" that it raises or None."""
Block = tuple[str, Sequence[Sequence[Example]], str | None]
"""Code ("" for a session), the examples of the session or of each docstring, what it says it prints or None."""
Fault = tuple[str, str]

LEAST_NOTICED = 0.5  # of the mutants
EQUIVALENT = 2  # mutants that may be unnoticed in any case: `x > 0` and `x >= 0` have the same sum
_SECONDS = 2.0  # CPU, for one block, example or test
_MUTANT_SECONDS = 0.03  # CPU, and three times what the solution takes: who takes longer is in an endless loop
_CONSTANTS = 3  # different results of the solution that trivial bodies give always
_ASLEEP_SECONDS = 2.0  # by the clock, and twice the CPU seconds: who takes longer only waits
_SHOWN = 120  # characters of the text's own in a reason

_armed = False


class _Late(BaseException):
    """The CPU time is up."""


def _on_alarm(*_: object) -> None:
    if _armed:
        raise _Late("it takes too long")


def _attempt(action: Callable[[], object], seconds: float) -> BaseException | None:
    """What `action` raises, if anything; _Late after so many CPU seconds, or when it does nothing for long."""
    global _armed
    signal.signal(signal.SIGPROF, _on_alarm)
    signal.signal(signal.SIGALRM, _on_alarm)
    try:
        _armed = True
        # Again and again: the text may swallow the first one.
        signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
        signal.setitimer(signal.ITIMER_REAL, _ASLEEP_SECONDS + 2 * seconds, 1.0)
        action()
    except BaseException as error:
        return error
    finally:
        _armed = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


@functools.cache
def _compiled(source: str, mode: str = "exec") -> types.CodeType:
    return compile(source, "<text>", mode, dont_inherit=True)


def _run(source: str, namespace: dict[str, Any], mode: str = "exec") -> tuple[str, BaseException | None]:
    """(what the source prints, what it raises)"""
    kept = io.BytesIO()
    output = io.TextIOWrapper(kept, "utf-8", newline="", write_through=True)  # text may write to its buffer
    with contextlib.redirect_stdout(output):
        error = _attempt(lambda: exec(_compiled(source, mode), namespace), _SECONDS)
    return kept.getvalue().decode("utf-8", "replace"), error


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _named(error: BaseException) -> str:
    """The exception in one line, as the end of a traceback has it."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _fault(where: str, error: BaseException, code: str = "does_not_run") -> Fault:
    if type(error) is _Late:
        return "too_slow", f"{where}: {error}"
    return code, f"{where}: {_short(_named(error))}"


def _module(name: str) -> dict[str, Any]:
    """The namespace of a fresh module that dataclasses, typing and pickle find under its name."""
    module = sys.modules[name] = types.ModuleType(name)
    return module.__dict__


class _NoInput(io.StringIO):
    """Standard input that nobody types: reading it fails, and is remembered if the text goes on regardless."""

    was_read = False

    def _refuse(self, *_: object) -> Any:
        self.was_read = True
        raise EOFError("nobody types anything")

    read = readline = readlines = __next__ = _refuse


def _same(got: str, wanted: str) -> bool:
    """Whether what was printed is what the text states, trailing white space aside."""
    got, wanted = ("\n".join(map(str.rstrip, text.splitlines())).rstrip() for text in (got, wanted))
    return got == wanted


def _alike(got: str, wanted: str) -> bool:
    """For an example: "..." stands for anything, and any white space is one space."""
    got, wanted = (" ".join(text.replace("<BLANKLINE>", "").split()) for text in (got, wanted))
    return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), got) is not None


def _wrong_example(sessions: Sequence[Sequence[Example]], namespace: dict[str, Any]) -> Fault | None:
    """The first example that does not hold, and how. Each session runs in a copy of `namespace`, as in doctest."""
    for session in sessions:
        own = dict(namespace)
        for source, wanted, raises in session:
            shown = f"the example {_short(source)!r}"
            got, error = _run(source, own, "single")
            if type(error) is _Late:
                return _fault(f"{shown} fails", error)
            if error is not None:
                got = _named(error)
            if raises is not None:  # "module.Error: text" may be stated without the module
                wanted = re.sub(r"^[\w.]*\.(?=\w+(:|$))", "", raises.strip())
            if (error is None) != (raises is None) or not _alike(got, wanted):
                return "wrong_example", f"{shown} gives {_short(got)!r}, not {_short(wanted)!r}"
    return None


def textbook(blocks: Sequence[Block]) -> Fault | None:
    """The fault of a section; None if its blocks run in order in one namespace and print what they say they print."""
    sys.stdin = nobody = _NoInput()
    namespace = _module("__main__")  # its blocks are read as a script
    for number, (code, sessions, stated) in enumerate(blocks, 1):
        printed, error = _run(code, namespace)
        if nobody.was_read:
            return "reads_input", f"block {number} reads input"
        if error is not None:
            return _fault(f"block {number} fails", error)
        if stated is not None and not _same(printed, stated):
            return "wrong_output", f"block {number} prints {_short(printed)!r}, not {_short(stated)!r}"
        if wrong := _wrong_example(sessions, namespace):
            return wrong[0], f"block {number}: {wrong[1]}"
    return None


def exercise(
    name: str,
    code: str,
    sessions: Sequence[Sequence[Example]],
    tests: Sequence[str],
    trivial: Sequence[str],
    mutants: Sequence[str],
) -> Fault | list[bool]:
    """The fault of an exercise; else whether the tests notice each trivial body, then each mutant.

    trivial: definitions of `name` that take the place of the solution's and may use `_results`, its different results
    in the tests.
    """
    sys.stdin = _NoInput()
    random.seed(0)
    start = time.process_time()
    namespace = _module("exercise")
    if error := _run(code, namespace)[1]:
        return _fault("the code does not run", error)
    if wrong := _wrong_example(sessions, namespace):
        return wrong
    results: dict[str, object] = {}
    tested = namespace | {name: _recorded(namespace[name], results)}
    for number, test in enumerate(tests, 1):
        if error := _run(test, tested)[1]:
            return _fault(f"test {number} {_short(test)!r} fails", error, "test_fails")
    limit = _MUTANT_SECONDS + 3 * (time.process_time() - start)

    def fails(*sources: str) -> BaseException | None:
        """What the tests raise in a fresh namespace, with these sources as the code."""
        fresh = _module("exercise")
        fresh["_results"] = list(results.values())

        def run() -> None:
            for source in (*sources, *tests):
                exec(_compiled(source), fresh)

        return _attempt(run, limit)

    random.seed(1)  # and a fresh namespace: what depends on luck or on an earlier call shows
    if error := fails(code):
        return _fault("the tests pass once and not again", error, "varies")
    return [fails(code, body) is not None for body in trivial] + [fails(mutant) is not None for mutant in mutants]


def _recorded(function: Callable[..., Any], results: dict[str, object]) -> Callable[..., Any]:
    """The function as the tests call it, not as it calls itself: its first different results go into `results`."""

    @functools.wraps(function)
    def recorded(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        if len(results) < _CONSTANTS:
            results.setdefault(repr(result), result)
        return result

    return recorded


def weak_tests(noticed: Fault | list[bool], trivial: Sequence[str]) -> Fault | None:
    """The fault of an exercise, given what `exercise` returns. trivial: what each trivial body does, in words."""
    if isinstance(noticed, tuple):
        return noticed
    for what, seen in zip(trivial, noticed, strict=False):
        if not seen:
            return "weak_tests", f"the tests pass with a function that {what}"
    count, caught = len(noticed) - len(trivial), sum(noticed) - len(trivial)
    if caught < LEAST_NOTICED * count and count - caught > EQUIVALENT:
        return "weak_tests", f"the tests notice only {caught} of {count} small changes to the solution"
    return None
