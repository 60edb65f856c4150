"""The judge's process: runs the tests, and is the only one that can say "passed".

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
from .channel import Channel, ChannelClosed, RemoteRaised, text_of, write_frame
from .codec import CodecError, Side, encode, is_plain
from .handles import Handle, JudgeSide, apply, as_exception

PASSED, FAILED, GONE = "passed", "failed", "gone"
"""What the judge reports. GONE: the candidate's process ended; the server then says how."""


RESULT_CHARACTERS = 500  # the longest Verdict.result
FRAME_BYTES = 1 << 12  # of a report: everything but its value

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")


def clean(text: str) -> str:
    """One line, without addresses, bounded, and printable in any encoding."""
    text = _ADDRESS.sub("0x...", text[: 8 * RESULT_CHARACTERS])
    text = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= RESULT_CHARACTERS - 10 else text[: RESULT_CHARACTERS - 13] + "..."


Request = tuple[str, str, str | None, str | None, str]
"""tests, trusted, entry_point, report, setup (as in Program)."""


def run(fd: int, report_fd: int, request: Request, output_bytes: int, report_bytes: int) -> NoReturn:
    """Runs one program's tests against the candidate on `fd`, writes (kind, text, value) to `report_fd` and ends the
    process. report_bytes: the most that `value`, encoded, may take."""

    def finish(kind: str, text: str = "", value: object = None) -> NoReturn:
        # Ends the process at once: no handler, finally or except of the tests runs any more, so that a broken
        # channel cannot be caught by a test's bare `except:` and turned into a pass.
        write_frame(report_fd, encode((kind, clean(text), value), Side(), report_bytes + FRAME_BYTES))
        os._exit(0)

    def ask(body: object) -> Any:
        try:
            return channel.ask(body)
        except ChannelClosed:
            finish(GONE)
        except CodecError as error:
            finish(FAILED, str(error))

    side = JudgeSide(ask)

    def serve(body: Any) -> Any:
        # A callback: the candidate calls a function that the tests gave it.
        if type(body) is not tuple or len(body) != 3:
            raise CodecError("a malformed call of the tests' function")
        number, arguments, keywords = body
        if type(number) is not int or not 0 <= number < len(side.functions):
            raise CodecError("a call of a function that the tests did not give")
        return side.functions[number](*arguments, **keywords)

    if any("random" in text for text in request if text):
        # What the tests draw is not what the candidate draws. (Imported at the top, random would be there before
        # candidate.preload.)
        import random

        random.seed()
    channel = Channel(fd, side, serve, read_limit=output_bytes, write_limit=REQUEST_BYTES)
    tests, trusted, entry_point, report, setup = request
    value = None
    try:
        run_tests(ask, channel, tests, trusted, entry_point, setup)
        if report is not None:
            value = _reported(ask, report, report_bytes)
    except (ChannelClosed, CodecError) as error:
        finish(GONE if isinstance(error, ChannelClosed) else FAILED, str(error))
    except BaseException as error:
        finish(FAILED, _reason(error))
    finish(PASSED, value=value)


def _reported(ask: Callable[[Any], Any], name: str, limit: int) -> Any:
    """The plain data that the candidate's function `name` returns. Raises TypeError, CodecError, or what it raised."""
    found = apply(ask, "names", name)
    function = found.get(name) if type(found) is dict else None
    if type(function) is not Handle:  # a builtin class or a function of the tests would be called in this process
        raise TypeError(f"the candidate defines no function {name!r} to report with")
    value = function()
    if not is_plain(value):
        raise TypeError("the report is not plain data (None, bool, int, float, str, list, tuple, dict)")
    encode(value, Side(), limit)
    return value


def run_tests(
    ask: Callable[[Any], Any], channel: Channel, tests: str, trusted: str, entry_point: str | None, setup: str
) -> None:
    """Returns if the tests came to their end; raises what stopped them."""
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    if setup:
        imports = ast.Module([n for n in ast.parse(setup).body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        exec(compile(imports, "<setup>", "exec"), namespace)
    if trusted:
        exec(compile(trusted, "<trusted>", "exec", dont_inherit=True), namespace)
    code = compile(tests, "<tests>", "exec", dont_inherit=True)
    _await_candidate(channel)
    wanted = free_names(tests, "<tests>") - namespace.keys()
    if not wanted and entry_point is None:
        entry_point = _first_called(tests)
    _import_modules(tests, wanted, namespace)
    if entry_point is not None:
        wanted.add(entry_point)
    found = apply(ask, "names", *sorted(wanted))
    if type(found) is not dict:
        raise CodecError("a malformed list of names")
    if entry_point is not None:
        namespace.pop(entry_point, None)  # the prompt defines it too, without a body
    namespace.update((name, found[name]) for name in wanted if name in found)
    exec(code, namespace)


def _first_called(tests: str) -> str | None:
    """The name of the outermost function that the first call in `tests` calls."""
    for node in ast.walk(ast.parse(tests)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return node.func.id
    return None


def _await_candidate(channel: Channel) -> None:
    """Returns when the candidate's source has run. Raises what it raised."""
    try:
        channel.await_answer()
    except RemoteRaised as raised:
        raise as_exception(raised) from None


def _import_modules(tests: str, wanted: set[str], namespace: dict[str, Any]) -> None:
    """Tests that say `math.isclose` and rely on the candidate's `import math` get the real module: the
    candidate's could say anything. Only where the name is nothing but a module: always `name.attribute`."""
    modules = wanted & sys.stdlib_module_names
    if not modules:
        return
    tree = ast.parse(tests)
    attributes = [n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    alone = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - {
        n.id for n in attributes if isinstance(n, ast.Name)
    }
    for name in sorted(modules - alone):
        namespace[name] = importlib.import_module(name)
        wanted.discard(name)


def _reason(error: BaseException) -> str:
    text = text_of(error)
    if not text:
        return type(error).__name__
    return text if isinstance(error, Exception) else f"{type(error).__name__}: {text}"


__all__ = ["FAILED", "GONE", "PASSED", "Handle", "clean", "run"]
