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

_BLOCK_SECONDS = 2.0  # CPU, for a block of a section
_TEST_SECONDS = 1.0  # CPU, for one test or example of an exercise
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
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _on_alarm)
    try:
        _armed = True
        # Again and again: the text may swallow the first one.
        signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
        signal.setitimer(signal.ITIMER_REAL, _ASLEEP_SECONDS + 2 * seconds, 1.0)
        try:
            action()
        finally:
            _armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:
        _armed = False
        return error
    return None


def _run(source: str, namespace: dict[str, Any], seconds: float, mode: str = "exec") -> BaseException | None:
    return _attempt(lambda: exec(compile(source, "<text>", mode, dont_inherit=True), namespace), seconds)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _fault(where: str, error: BaseException, code: str = "does_not_run") -> Fault:
    """The exception in one line, as the end of a traceback has it."""
    if type(error) is _Late:
        return "too_slow", f"{where}: {error}"
    try:
        text = _short(str(error))
    except BaseException:
        text = ""
    return code, f"{where}: {type(error).__name__}" + (text and f": {text}")


def _module(name: str) -> dict[str, Any]:
    """The namespace of a fresh module that dataclasses, typing and pickle find under its name."""
    module = sys.modules[name] = types.ModuleType(name)
    return module.__dict__


class _Output(io.TextIOWrapper):
    """Standard output that is kept."""

    def __init__(self) -> None:
        self.kept = io.BytesIO()
        super().__init__(self.kept, encoding="utf-8", newline="", write_through=True)

    def text(self) -> str:
        return self.kept.getvalue().decode("utf-8", "replace")


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


def _wrong_example(examples: Sequence[Example], namespace: dict[str, Any], seconds: float) -> Fault | None:
    """The first of the examples that does not hold, and how. They run in a copy of `namespace`, as in doctest."""
    own = dict(namespace)
    for source, wanted, raises in examples:
        shown = f"the example {_short(source)!r}"
        with contextlib.redirect_stdout(_Output()) as output:
            error = _run(source, own, seconds, "single")
        if error is not None:
            # "module.Error: text" is stated as "Error: text" or whole.
            stated = re.sub(r"^[\w.]*\.(?=\w+(:|$))", "", (raises or "").strip())
            whole = f"{type(error).__name__}: {error}".strip().removesuffix(":")
            if type(error) is _Late or raises is None or not _alike(whole, stated):
                return _fault(f"{shown} fails", error, "wrong_example")
        elif raises is not None:
            return "wrong_example", f"{shown} does not raise {_short(raises)}"
        elif not _alike(output.text(), wanted):
            return "wrong_example", f"{shown} gives {_short(output.text())!r}, not {_short(wanted)!r}"
    return None


def textbook(blocks: Sequence[Block]) -> Fault | None:
    """The fault of a section; None if its blocks run in order in one namespace and print what they say they print."""
    sys.stdin = nobody = _NoInput()
    namespace = _module("__main__")  # its blocks are read as a script
    for number, (code, examples, stated) in enumerate(blocks, 1):
        with contextlib.redirect_stdout(_Output()) as output:
            error = _run(code, namespace, _BLOCK_SECONDS)
        if nobody.was_read:
            return "reads_input", f"block {number} reads input"
        if error is not None:
            return _fault(f"block {number} fails", error)
        if stated is not None and not _same(output.text(), stated):
            return "wrong_output", f"block {number} prints {_short(output.text())!r}, not {_short(stated)!r}"
        for session in examples:
            if wrong := _wrong_example(session, namespace, _BLOCK_SECONDS):
                return wrong[0], f"block {number}: {wrong[1]}"
    return None


def exercise(
    name: str,
    code: str,
    examples: Sequence[Sequence[Example]],
    tests: Sequence[str],
    trivial: Sequence[str],
    mutants: Sequence[str],
) -> Fault | list[bool | None]:
    """The fault of an exercise; else whether the tests notice each trivial body, then each mutant; None = no program.

    trivial: definitions of `name` that take the place of the solution's and may use `_results`, its different results
    in the tests.
    """
    sys.stdin = _NoInput()
    random.seed(0)
    start = time.process_time()
    namespace = _module("exercise")
    if error := _run(code, namespace, _TEST_SECONDS):
        return _fault("the code does not run", error)
    for session in examples:
        if wrong := _wrong_example(session, namespace, _TEST_SECONDS):
            return wrong
    for number, test in enumerate(tests, 1):
        if error := _run(test, namespace, _TEST_SECONDS):
            return _fault(f"test {number} {_short(test)!r} fails", error, "test_fails")
    limit = _MUTANT_SECONDS + 3 * (time.process_time() - start)

    random.seed(1)  # and a fresh namespace: what depends on luck or on an earlier call shows
    solution, *checks = (compile(source, "<text>", "exec", dont_inherit=True) for source in (code, *tests))

    def suite(*programs: types.CodeType, results: Sequence[object] = ()) -> BaseException | None:
        namespace = _module("exercise")
        namespace["_results"] = results

        def run() -> None:
            for part in (*programs, *checks):
                exec(part, namespace)

        return _attempt(run, limit)

    if error := suite(solution):
        return _fault("the tests pass once and not again", error, "varies")
    results = _results(name, solution, checks, limit)
    noticed: list[bool | None] = []
    for number, source in enumerate((*trivial, *mutants)):
        try:
            program = compile(source, "<text>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            noticed.append(None)
            continue
        before = (solution,) if number < len(trivial) else ()
        noticed.append(suite(*before, program, results=results) is not None)
    return noticed


def _results(name: str, solution: types.CodeType, checks: Sequence[types.CodeType], limit: float) -> list[object]:
    """The solution's first different results in the tests; not those of its calls of itself."""
    namespace = _module("exercise")
    found: dict[str, object] = {}
    depth = 0

    def run() -> None:
        exec(solution, namespace)
        function = namespace[name]

        @functools.wraps(function)
        def recorded(*arguments: Any, **keywords: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                result = function(*arguments, **keywords)
            finally:
                depth -= 1
            if depth == 0 and len(found) < _CONSTANTS:
                found.setdefault(repr(result), result)
            return result

        namespace[name] = recorded
        for check in checks:
            exec(check, namespace)

    _attempt(run, limit)  # what it finds before an error is enough
    return list(found.values())
