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

from .channel import REQUEST_BYTES, Ask, Channel, ChannelClosed, text_of
from .codec import CodecError, encode, is_plain
from .handles import Handle

PASSED, FAILED, GONE = "passed", "failed", "gone"
"""What the tester reports. GONE: the candidate's process ended; the server then says how."""

RESULT_CHARACTERS = 500  # the longest Verdict.result
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
        with open(report_fd, "wb") as file:
            file.write(encode((kind, clean(text), value), REQUEST_BYTES))
        os._exit(0)

    def ask(body: object) -> Any:
        try:
            return channel.ask(body)
        except ChannelClosed:
            finish(GONE)
        except CodecError as error:
            finish(FAILED, str(error))

    def serve(body: Any) -> Any:
        # A callback: the candidate calls a function that the tests gave it.
        match body:
            case (int(number), tuple(arguments), dict(keywords)) if 0 <= number < len(channel.objects):
                return channel.objects[number](*arguments, **keywords)
        raise CodecError("a malformed call of the tests' function")

    channel = Channel(fd, b"G", Handle, serve, output, REQUEST_BYTES)
    channel.proxies_ask = ask
    tests, trusted, entry_point, reporter = request
    value = None
    try:
        run_tests(ask, channel.await_answer, tests, trusted, entry_point, setup)
        if reporter is not None:
            value = _reported(ask, reporter, report)
    except ChannelClosed:
        finish(GONE)
    except BaseException as error:
        text = text_of(error)
        if not text or not isinstance(error, Exception):
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        finish(FAILED, text)
    finish(PASSED, value=value)


def _named(ask: Ask, name: str) -> dict[str, Any]:
    """{name: what it stands for} if the candidate defines it, else {}."""
    found = ask(("named", (name,)))
    if type(found) is not dict or not found.keys() <= {name}:
        raise CodecError("a malformed name")
    return found


def _reported(ask: Ask, name: str, limit: int) -> Any:
    """The plain data that the candidate's function `name` returns. Raises TypeError, CodecError, or what it raised."""
    function = _named(ask, name).get(name)
    if type(function) is not Handle:  # a builtin class or a function of the tests would be called in this process
        raise TypeError(f"the candidate defines no function {name!r} to report with")
    value = function()
    if not is_plain(value):
        raise TypeError("the report is not plain data (None, bool, int, float, str, list, tuple, dict)")
    encode(value, limit)
    return value


class _Builtins(dict[str, Any]):
    """Python's builtins and, where the tests use another name that they do not define, what the candidate defines."""

    def __init__(self, ask: Ask, tests: str) -> None:
        super().__init__(vars(builtins))
        self._ask = ask
        self._tests = tests

    def __missing__(self, name: str) -> Any:
        # Tests that say `math.isclose` and rely on the candidate's `import math` get the real module: the candidate's
        # could say anything.
        is_module = name in sys.stdlib_module_names and re.search(rf"\b{name}\.[a-z]", self._tests)
        self[name] = importlib.import_module(name) if is_module else _named(self._ask, name)[name]
        return self[name]


def run_tests(
    ask: Ask, await_candidate: Callable[[], object], tests: str, trusted: str, entry_point: str | None, setup: str
) -> None:
    """Returns if the tests came to their end; raises what stopped them. await_candidate: returns when the candidate's
    source has run; raises what it raised."""
    await_candidate()
    namespace = {"__name__": "tests", "__builtins__": _Builtins(ask, tests)}
    imports = ast.Module([n for n in ast.parse(setup).body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    exec(compile(imports, "<setup>", "exec"), namespace)
    exec(compile(trusted, "<trusted>", "exec", dont_inherit=True), namespace)
    code = compile(tests, "<tests>", "exec", dont_inherit=True)
    if entry_point is None:
        entry_point = _first_called(tests)
    if entry_point is not None:
        namespace.pop(entry_point, None)  # the prompt defines it too, without a body
        namespace |= _named(ask, entry_point)
    exec(code, namespace)


def _first_called(tests: str) -> str | None:
    """The name of the outermost function that the first call in `tests` calls, if all names there are builtins."""
    nodes = list(ast.walk(ast.parse(tests)))
    if {node.id for node in nodes if isinstance(node, ast.Name)} <= vars(builtins).keys():
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                return node.func.id
    return None
