"""The candidate's objects as the tests see them.

A handle stands for an object that is not plain data: a function, a class, an instance, a generator. What the
tests ask of it is answered by the candidate, under one rule: **what the tests expect never travels**. An
object whose `__sub__` returns 0, or whose `__contains__` returns True, would otherwise pass
`abs(f(x) - y) < 1e-6` or `y in f(x)`. So a comparison or computation with the tests' own data is made here,
on the content that the object has as an instance of a builtin's subclass (a namedtuple is a tuple); without
such content it equals nothing, and computing with it is a TypeError. Between two handles the candidate's
class decides: both are its own.
"""

import builtins
import operator
from collections.abc import Callable, Iterator
from typing import Any

from .candidate import OPERATORS
from .channel import RemoteRaised
from .codec import CodecError, Side


class CandidateError(Exception):
    """The candidate raised something that is no Exception of the builtins: its own class, or SystemExit."""


# An exception of these classes, raised inside the tests' loops and generators, would end them in silence.
_DISARMED = (StopIteration, StopAsyncIteration)


def as_exception(raised: RemoteRaised) -> Exception:
    """The builtin exception that a candidate's exception is, or derives from; else CandidateError.

    Only subclasses of Exception: SystemExit and KeyboardInterrupt must not travel, they would end the judge.
    """
    for name in raised.names:
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind in _DISARMED:
            continue
        if kind is Exception and name != raised.names[0]:
            break  # a class of the candidate's own: its name says more than "Exception"
        try:
            return kind(raised.text)
        except TypeError:  # UnicodeDecodeError and its like want more arguments
            continue
    return CandidateError(f"{raised.names[0]}: {raised.text}" if raised.text else raised.names[0])


class JudgeSide(Side):
    """Handles that were received, and the tests' functions that were sent."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask
        self._handles: dict[int, Handle] = {}
        self.functions: list[Callable[..., Any]] = []

    def refer(self, value: object) -> tuple[str, int]:
        if type(value) is Handle:
            return "C", value._number
        if not callable(value):
            raise CodecError(f"the tests pass a {type(value).__name__} object, which cannot be sent")
        self.functions.append(value)
        return "J", len(self.functions) - 1

    def resolve(self, owner: str, number: int) -> object:
        if owner == "J":
            if number >= len(self.functions):
                raise CodecError("a reference to nothing")
            return self.functions[number]
        # The same object is the same handle, so that `is` holds.
        handle = self._handles.get(number)
        if handle is None:
            handle = self._handles[number] = Handle(self._ask, number)
        return handle


def apply(ask: Callable[..., Any], name: str, *arguments: Any, **keywords: Any) -> Any:
    """Asks the candidate for one operation. Raises what it raised, as `as_exception` says."""
    try:
        return ask((name, list(arguments), keywords))
    except RemoteRaised as raised:
        error = as_exception(raised)
    raise error


class Handle:
    """An object that lives in the candidate's process."""

    __slots__ = ("_ask", "_number")

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)

    def _do(self, name: str, *arguments: Any) -> Any:
        return apply(self._ask, name, self, *arguments)

    def _exactly(self, name: str, kind: type) -> Any:
        value = self._do(name)
        if type(value) is not kind:
            raise TypeError(f"the candidate's object has no {kind.__name__} value")
        return value

    def _content(self) -> tuple[bool, Any]:
        """(True, plain data) for an instance of a builtin's subclass."""
        found = self._do("value")
        if type(found) is not tuple or len(found) != 2 or found[0] is not True or type(found[1]) is Handle:
            return False, None
        return True, found[1]

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        answer = apply(self._ask, "call", self, *arguments, **keywords)
        if type(answer) is not tuple or len(answer) != 2 or type(answer[1]) is not dict:
            raise CodecError("a malformed result")
        for key, value in answer[1].items():
            if type(key) is int and 0 <= key < len(arguments):
                write_back(arguments[key], value)
            elif type(key) is str and key in keywords:
                write_back(keywords[key], value)
        return answer[0]

    def __getattr__(self, name: str) -> Any:
        return self._do("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._do("setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._do("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._do("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._do("delitem", key)

    def __len__(self) -> int:
        return int(self._exactly("len", int))

    def __iter__(self) -> Iterator[Any]:
        iterator = self._do("iter")
        if type(iterator) is not Handle:
            return iter(iterator)
        return iterator._items()

    def _items(self) -> Iterator[Any]:
        while True:
            found = self._do("next")
            if type(found) is not tuple or len(found) != 2:
                raise CodecError("a malformed item")
            if found[0] is not True:
                return
            yield found[1]

    def __next__(self) -> Any:
        for item in self._items():
            return item
        raise StopIteration

    def __reversed__(self) -> Iterator[Any]:
        return iter(self._do("reversed"))

    def __contains__(self, item: Any) -> bool:
        return any(item is each or item == each for each in self)

    def __bool__(self) -> bool:
        return bool(self._exactly("bool", bool))

    def __str__(self) -> str:
        return str(self._exactly("str", str))

    def __repr__(self) -> str:
        return str(self._exactly("repr", str))

    def __int__(self) -> int:
        return int(self._exactly("int", int))

    def __float__(self) -> float:
        return float(self._exactly("float", float))

    def __complex__(self) -> complex:
        return complex(self._exactly("complex", complex))

    def __index__(self) -> int:
        return int(self._exactly("index", int))

    def __neg__(self) -> Any:
        return self._do("neg")

    def __abs__(self) -> Any:
        return self._do("abs")

    def __round__(self, digits: int | None = None) -> Any:
        return self._do("round", digits)

    def __enter__(self) -> Any:
        return self._do("enter")

    def __exit__(self, *_: object) -> None:
        self._do("exit")

    def __instancecheck__(self, instance: Any) -> bool:
        # The tests' `isinstance(x, Node)` with the candidate's Node; plain data is no instance of it.
        return type(instance) is Handle and self._do_on("isinstance", instance) is True

    def _do_on(self, name: str, first: Any) -> Any:
        return apply(self._ask, name, first, self)

    def __hash__(self) -> int:
        # Equal content must hash alike, or a namedtuple would not be found in the tests' dict.
        found, content = self._content()
        return hash(content) if found else hash(("handle", self._number))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is Handle:
            return self._do("eq", other) is True
        found, content = self._content()
        return found and bool(content == other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _binary(name: str, *, reflected: bool) -> Callable[[Handle, Any], Any]:
    compute = getattr(operator, name)

    def operation(self: Handle, other: Any) -> Any:
        if type(other) is Handle and not reflected:
            return self._do(name, other)
        found, content = self._content()
        if not found:
            return NotImplemented
        return compute(other, content) if reflected else compute(content, other)

    return operation


for _name in OPERATORS:
    if _name in ("eq", "ne"):
        continue
    setattr(Handle, f"__{_name.strip('_')}__", _binary(_name, reflected=False))
    if _name not in ("lt", "le", "gt", "ge"):
        setattr(Handle, f"__r{_name.strip('_')}__", _binary(_name, reflected=True))


def write_back(old: Any, new: Any) -> None:
    """Makes the tests' `old` what the candidate made of its copy, in place, as a call in one process would.

    Containers of the same kind keep their identity, level by level, so that a list within a list that the
    tests also hold by another name changes too. What two arguments share is not shared on the other side.
    """
    if type(old) is not type(new):
        return
    if type(old) is list:
        _inner(zip(old, new, strict=False))
        old[:] = [_kept(old[i], item) if i < len(old) else item for i, item in enumerate(new)]
    elif type(old) is dict or (type(old).__module__ == "collections" and isinstance(old, dict)):
        merged = {key: _kept(old[key], item) if key in old else item for key, item in new.items()}
        _inner((old[key], item) for key, item in new.items() if key in old)
        old.clear()
        old.update(merged)
    elif type(old) is set:
        old.clear()
        old.update(new)
    elif type(old) is bytearray:
        old[:] = new
    elif type(old) is tuple:
        _inner(zip(old, new, strict=False))
    elif hasattr(old, "extend") and hasattr(old, "clear"):  # deque
        old.clear()
        old.extend(new)


def _kept(old: Any, new: Any) -> Any:
    return old if type(old) is type(new) and type(old) in (list, dict, set, bytearray) else new


def _inner(pairs: Any) -> None:
    for old, new in pairs:
        write_back(old, new)
