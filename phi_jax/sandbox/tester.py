"""The tester's process: runs the tests, and is the only one that can say "passed".

It says so on a pipe that the candidate's process never had, and only when the tests came to their end.
"""

import ast
import builtins
import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from .candidate import REQUEST_BYTES, free_names
from .channel import Channel, ChannelClosed, text_of, write_frame
from .codec import CodecError, Side, encode, is_plain
from .handles import Handle, TesterSide

Ask = Callable[[Any], Any]
PASSED, FAILED, GONE = "passed", "failed", "gone"
"""What the tester reports. GONE: the candidate's process ended; the server then says how."""

RESULT_CHARACTERS = 500  # the longest Verdict.result
FRAME_BYTES = 1 << 12  # of a report: everything but its value

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")


def clean(text: str) -> str:
    """One line, without addresses, bounded, and printable in any encoding."""
    text = _ADDRESS.sub("0x...", text[: 8 * RESULT_CHARACTERS])
    text = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= RESULT_CHARACTERS - 10 else text[: RESULT_CHARACTERS - 13] + "..."


def run(
    fd: int, report_fd: int, request: tuple[str, str, str | None, str | None], setup: str, *, output: int, report: int
) -> NoReturn:
    """Runs one program's tests against the candidate on `fd`, writes (kind, text, value) to `report_fd` and ends the
    process.

    request: tests, trusted, entry_point, report (as in Program). output, report: bytes that one value of the candidate
    and the report may take, encoded.
    """

    def finish(kind: str, text: str = "", value: object = None) -> NoReturn:
        # Ends the process at once: no handler, finally or except of the tests runs any more, so that a broken
        # channel cannot be caught by a test's bare `except:` and turned into a pass.
        write_frame(report_fd, encode((kind, clean(text), value), Side(), report + FRAME_BYTES))
        os._exit(0)

    def ask(body: object) -> Any:
        try:
            return channel.ask(body)
        except ChannelClosed:
            finish(GONE)
        except CodecError as error:
            finish(FAILED, str(error))

    side = TesterSide(ask)

    def serve(body: Any) -> Any:
        # A callback: the candidate calls a function that the tests gave it.
        if type(body) is not tuple or len(body) != 3:
            raise CodecError("a malformed call of the tests' function")
        number, arguments, keywords = body
        if type(number) is not int or not 0 <= number < len(side.functions):
            raise CodecError("a call of a function that the tests did not give")
        return side.functions[number](*arguments, **keywords)

    tests, trusted, entry_point, reporter = request
    if any("random" in text for text in (tests, trusted, setup)):
        # What the tests draw is not what the candidate draws. (Imported at the top, random would be there before
        # candidate.preload.)
        import random

        random.seed()
    channel = Channel(fd, side, serve, read_limit=output, write_limit=REQUEST_BYTES)
    value = None
    try:
        run_tests(ask, channel.await_answer, tests, trusted, entry_point, setup)
        if reporter is not None:
            value = _reported(ask, reporter, report)
    except ChannelClosed:
        finish(GONE)
    except BaseException as error:
        text = text_of(error)
        named = isinstance(error, Exception) and text
        finish(FAILED, text if named else ": ".join(filter(None, [type(error).__name__, text])))
    finish(PASSED, value=value)


def _names(ask: Ask, *wanted: str) -> dict[str, Any]:
    """Those of the names that the candidate defines, with what they stand for."""
    found = ask(("names", list(wanted), {}))
    if type(found) is not dict:
        raise CodecError("a malformed list of names")
    return found


def _reported(ask: Ask, name: str, limit: int) -> Any:
    """The plain data that the candidate's function `name` returns. Raises TypeError, CodecError, or what it raised."""
    function = _names(ask, name).get(name)
    if type(function) is not Handle:  # a builtin class or a function of the tests would be called in this process
        raise TypeError(f"the candidate defines no function {name!r} to report with")
    value = function()
    if not is_plain(value):
        raise TypeError("the report is not plain data (None, bool, int, float, str, list, tuple, dict)")
    encode(value, Side(), limit)
    return value


def run_tests(
    ask: Ask, await_candidate: Callable[[], object], tests: str, trusted: str, entry_point: str | None, setup: str
) -> None:
    """Returns if the tests came to their end; raises what stopped them. await_candidate: returns when the candidate's
    source has run; raises what it raised."""
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    if setup:
        imports = ast.Module([n for n in ast.parse(setup).body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        exec(compile(imports, "<setup>", "exec"), namespace)
    if trusted:
        exec(compile(trusted, "<trusted>", "exec", dont_inherit=True), namespace)
    code = compile(tests, "<tests>", "exec", dont_inherit=True)
    await_candidate()
    wanted = free_names(tests, "<tests>") - namespace.keys()
    if not wanted and entry_point is None:
        entry_point = _first_called(tests)
    _import_modules(tests, wanted, namespace)
    if entry_point is not None:
        wanted.add(entry_point)
        namespace.pop(entry_point, None)  # the prompt defines it too, without a body
    found = _names(ask, *sorted(wanted))
    namespace.update((name, found[name]) for name in wanted if name in found)
    exec(code, namespace)


def _first_called(tests: str) -> str | None:
    """The name of the outermost function that the first call in `tests` calls."""
    for node in ast.walk(ast.parse(tests)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return node.func.id
    return None


def _import_modules(tests: str, wanted: set[str], namespace: dict[str, Any]) -> None:
    """Tests that say `math.isclose` and rely on the candidate's `import math` get the real module: the
    candidate's could say anything. Only where the tests say `name.attribute`."""
    modules = wanted & sys.stdlib_module_names
    if not modules:
        return
    owners = [node.value for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Attribute)]
    for name in sorted(modules & {owner.id for owner in owners if isinstance(owner, ast.Name)}):
        namespace[name] = importlib.import_module(name)
        wanted.discard(name)
