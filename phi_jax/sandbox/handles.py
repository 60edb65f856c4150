"""The candidate's objects as the tests see them.

A handle stands for an object that is not plain data: a function, a class, an instance, a generator. What the
tests ask of it is answered by the candidate, under one rule: **what the tests expect never travels**. An
object whose `__sub__` returns 0, or whose `__contains__` returns True, would otherwise pass
`abs(f(x) - y) < 1e-6` or `y in f(x)`. So a comparison or computation with the tests' own data is made here,
on the content that the object has as an instance of a builtin's subclass (a namedtuple is a tuple); without
such content it equals nothing, and computing with it is a TypeError. Between two handles the candidate's
class decides: both are its own.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

from .candidate import OPERATORS
from .codec import CodecError, Side


class TesterSide(Side):
    """Handles that were received, and the tests' functions that were sent."""

    def __init__(self, ask: Callable[[Any], Any]) -> None:
        self._ask = ask
        self._handles: dict[int, Handle] = {}
        self.functions: list[Callable[..., Any]] = []

    def refer(self, value: object) -> tuple[str, int]:
        if type(value) is Handle:
            return "C", value._number
        if not callable(value):
            raise CodecError(f"the tests pass a {type(value).__name__} object, which cannot be sent")
        self.functions.append(value)
        return "G", len(self.functions) - 1

    def resolve(self, owner: str, number: int) -> object:
        if owner == "G":
            if number >= len(self.functions):
                raise CodecError("a reference to nothing")
            return self.functions[number]
        # The same object is the same handle, so that `is` holds.
        if number not in self._handles:
            self._handles[number] = Handle(self._ask, number)
        return self._handles[number]


class Handle:
    """An object that lives in the candidate's process."""

    __slots__ = ("_ask", "_number")
    _ask: Callable[[Any], Any]
    _number: int

    def __init__(self, ask: Callable[[Any], Any], number: int) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)

    def _do(self, name: str, *arguments: Any) -> Any:
        """Asks the candidate for one operation on this object. Raises what it raised."""
        return self._ask((name, [self, *arguments], {}))

    def _content(self) -> tuple[bool, Any]:
        """(True, plain data) for an instance of a builtin's subclass."""
        found, content = _pair(self._do("value"))
        return found is True and type(content) is not Handle, content

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        result, changed = _pair(self._ask(("call", [self, *arguments], keywords)))
        if type(changed) is not dict:
            raise CodecError("a malformed result")
        for key, value in changed.items():
            if type(key) is int and 0 <= key < len(arguments):
                write_back(arguments[key], value)
            elif type(key) is str and key in keywords:
                write_back(keywords[key], value)
        return result

    def __iter__(self) -> Iterator[Any]:
        iterator = self._do("iter")
        return iterator._items() if type(iterator) is Handle else iter(iterator)

    def _items(self) -> Iterator[Any]:
        while True:
            found, item = _pair(self._do("next"))
            if found is not True:
                return
            yield item

    def __next__(self) -> Any:
        for item in self._items():
            return item
        raise StopIteration

    def __contains__(self, item: Any) -> bool:
        return any(item is each or item == each for each in self)

    def __exit__(self, *_: object) -> None:
        self._do("exit")

    def __instancecheck__(self, instance: Any) -> bool:
        # The tests' `isinstance(x, Node)` with the candidate's Node; plain data is no instance of it.
        return type(instance) is Handle and instance._do("isinstance", self) is True

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


def _pair(value: Any) -> tuple[Any, Any]:
    if type(value) is not tuple or len(value) != 2:
        raise CodecError("a malformed result")
    return value


def _forwarded(name: str) -> Callable[..., Any]:
    """A method that the candidate's object answers with whatever it likes."""
    return lambda self, *arguments: self._do(name, *arguments)


def _exactly(name: str, kind: type) -> Callable[[Handle], Any]:
    """A method that Python itself wants a `kind` from."""

    def operation(self: Handle) -> Any:
        value = self._do(name)
        if type(value) is not kind:
            raise TypeError(f"the candidate's object has no {kind.__name__} value")
        return value

    return operation


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


for _name in ("getattr", "setattr", "getitem", "setitem", "delitem", "reversed", "neg", "abs", "round", "enter"):
    setattr(Handle, f"__{_name}__", _forwarded(_name))
for _name, _kind in {"len": int, "bool": bool, "str": str, "repr": str, "int": int, "float": float, "complex": complex,
                     "index": int}.items():  # fmt: skip
    setattr(Handle, f"__{_name}__", _exactly(_name, _kind))
for _name in set(OPERATORS) - {"eq", "ne"}:
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
    if isinstance(old, list):
        old[:] = [*map(_kept, old, new), *new[len(old) :]]
    elif isinstance(old, dict):
        merged = {key: _kept(old[key], item) if key in old else item for key, item in new.items()}
        old.clear()
        old.update(merged)
    elif isinstance(old, tuple):
        for pair in zip(old, new, strict=False):
            write_back(*pair)
    elif type(old) is set:
        old.clear()
        old.update(new)
    elif hasattr(old, "extend"):  # bytearray, deque
        old.clear()
        old.extend(new)


def _kept(old: Any, new: Any) -> Any:
    write_back(old, new)
    return old if type(old) is type(new) and type(old) in (list, dict, set, bytearray) else new
