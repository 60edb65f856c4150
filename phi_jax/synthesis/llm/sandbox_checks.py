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
Block = tuple[str, str, Sequence[Sequence[Example]], str | None]
"""Name, code ("" for a session), examples of the session or of each docstring, what it says it prints or None."""
Fault = tuple[str, str]

_SECONDS = 2.0  # CPU, for one block, example or test
_MUTANT_SECONDS = 0.03  # CPU, and three times what the solution takes: who takes longer is in an endless loop
_CONSTANTS = 3  # different results of the solution that trivial bodies give always
_ASLEEP_SECONDS = 2.0  # by the clock, and twice the CPU seconds: who takes longer only waits
_SHOWN = 120  # characters of the text's own in a reason


class _Late(BaseException):
    """The CPU time is up."""


def _on_alarm(*_: object) -> None:
    raise _Late("it takes too long")


@functools.cache
def _compiled(source: str, mode: str = "exec") -> types.CodeType:
    return compile(source, "<text>", mode, dont_inherit=True)


def _run(
    source: str, namespace: dict[str, Any], seconds: float = _SECONDS, mode: str = "exec"
) -> tuple[str, BaseException | None]:
    """(what the source prints, what it raises): _Late after so many CPU seconds, or when it does nothing for long."""
    output = io.StringIO()
    # Again and again: the text may swallow the first one.
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    signal.setitimer(signal.ITIMER_REAL, _ASLEEP_SECONDS + 2 * seconds, 1.0)
    signal.signal(signal.SIGPROF, _on_alarm)
    signal.signal(signal.SIGALRM, _on_alarm)
    try:
        with contextlib.redirect_stdout(output):
            exec(_compiled(source, mode), namespace)
    except BaseException as error:
        return output.getvalue(), error
    finally:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return output.getvalue(), None


def _short(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]


def _named(error: BaseException) -> str:
    """The exception in one line, as the end of a traceback has it."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _fault(where: str, error: BaseException) -> Fault:
    if type(error) is _Late:
        return "too_slow", f"{where} fails: {error}"
    code = "test_fails" if isinstance(error, AssertionError) else "does_not_run"
    return code, f"{where} fails: {_short(_named(error))}"


def _module(name: str) -> dict[str, Any]:
    """The namespace of a fresh module that dataclasses, typing and pickle find under its name."""
    module = sys.modules[name] = types.ModuleType(name)
    return module.__dict__


def _lines(text: str) -> list[str]:
    """What was printed, trailing white space aside."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


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
            got, error = _run(source, own, mode="single")
            if type(error) is _Late:
                return _fault(shown, error)
            if error is not None:
                got = _named(error)
            if raises is not None:  # "module.Error: text" may be stated without the module
                wanted = re.sub(r"^[\w.]*\.(?=\w+(:|$))", "", raises.strip())
            if (error is None) != (raises is None) or not _alike(got, wanted):
                return "wrong_example", f"{shown} gives {_short(got)!r}, not {_short(wanted)!r}"
    return None


def textbook(blocks: Sequence[Block]) -> Fault | None:
    """The first fault; None if the blocks run in order in one namespace and print what they say they print."""
    sys.stdin = None  # nobody types anything
    random.seed(hash("luck"))  # another one under another hash seed
    namespace = _module("__main__")  # the blocks are read as a script
    for name, code, sessions, stated in blocks:
        printed, error = _run(code, namespace)
        if error is not None:
            return _fault(name, error)
        if stated is not None and _lines(printed) != _lines(stated):
            return "wrong_output", f"{name} prints {_short(printed)!r}, not {_short(stated)!r}"
        if wrong := _wrong_example(sessions, namespace):
            return wrong[0], f"{name}: {wrong[1]}"
    return None


def exercise(name: str, code: str, tests: Sequence[str], versions: Sequence[str]) -> Fault | list[bool]:
    """Of each wrong version of an exercise's code, whether the tests notice it. `name` is the function that they test.

    A version may use `_results`, the solution's different results in the tests. The solution itself has passed them; a
    fault, where it does not now.
    """
    sys.stdin = None
    start = time.process_time()
    namespace = _module("exercise")
    error = _run(code, namespace)[1]
    results: dict[str, object] = {}
    tested = namespace | {name: _recorded(namespace[name], results)}
    for test in tests:
        error = error or _run(test, tested)[1]
    if error:
        return _fault("the same test, once more,", error)
    limit = _MUTANT_SECONDS + 3 * (time.process_time() - start)

    def noticed(version: str) -> bool:
        """Whether the tests fail in a fresh namespace, with this version as the code."""
        fresh = _module("exercise")
        fresh["_results"] = list(results.values())
        return any(_run(source, fresh, limit)[1] is not None for source in (version, *tests))

    return list(map(noticed, versions))


def _recorded(function: Callable[..., Any], results: dict[str, object]) -> Callable[..., Any]:
    """The function as the tests call it, not as it calls itself: its first different results go into `results`."""

    @functools.wraps(function)
    def recorded(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        if len(results) < _CONSTANTS:
            results.setdefault(repr(result), result)
        return result

    return recorded
