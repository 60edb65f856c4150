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
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .channel import Ask
from .codec import CodecError


class Handle:
    """An object that lives in the candidate's process."""

    __slots__ = ("_ask", "_number")
    _ask: Ask
    _number: int

    def __init__(self, ask: Ask, number: int) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)

    def _do(self, name: str, *arguments: Any) -> Any:
        """Asks the candidate for one operation on this object. Raises what it raised."""
        return self._ask((name, (self, *arguments)))

    def _content(self) -> tuple[bool, Any]:
        """(True, plain data) for an instance of a builtin's subclass."""
        found, content = _pair(self._do("value"))
        return found is True and type(content) is not Handle, content

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # isinstance asks for it: a namedtuple is a tuple
        found, content = self._content()
        return type(content) if found else Handle

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        result, changed = _pair(self._do("call", arguments, keywords))
        write_back((arguments, keywords), changed)
        return result

    def __iter__(self) -> Iterator[Any]:
        iterator = self._do("iter")
        if type(iterator) is not Handle:
            yield from iterator
            return
        while (found := _pair(iterator._do("next")))[0] is True:
            yield found[1]

    def __next__(self) -> Any:
        return next(iter(self))

    def __contains__(self, item: Any) -> bool:
        return any(item is each or item == each for each in self)

    def __instancecheck__(self, instance: Any) -> bool:
        # The tests' `isinstance(x, Node)` with the candidate's Node; plain data is no instance of it.
        return type(instance) is Handle and instance._do("isinstance", self) is True

    def __hash__(self) -> int:
        # Equal content must hash alike, or a namedtuple would not be found in the tests' dict.
        found, content = self._content()
        return hash(content) if found else hash(self._number)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is Handle:
            return self._do("eq", other) is True
        found, content = self._content()
        return found and bool(content == other)


def _pair(value: Any) -> tuple[Any, Any]:
    """Both parts of what the candidate answers. Raises CodecError if it is no pair."""
    if type(value) is not tuple or len(value) != 2:
        raise CodecError("a malformed result")
    return value


def _asked(name: str, kind: type) -> Callable[..., Any]:
    """A method that the candidate's object answers with whatever it likes, or with the `kind` that Python wants."""

    def operation(self: Handle, *arguments: Any) -> Any:
        value = self._do(name, *arguments)
        if not isinstance(value, kind):
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


_ASKED = {
    object: "getattr setattr getitem setitem delitem reversed neg abs round",
    int: "len int index",
    bool: "bool",
    str: "str repr",
    float: "float",
    complex: "complex",
}
_COMPUTED = "lt le gt ge add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift"
for _kind, _names in _ASKED.items():
    for _name in _names.split():
        setattr(Handle, f"__{_name}__", _asked(_name, _kind))
for _name in _COMPUTED.split():
    _method = _name.strip("_")
    setattr(Handle, f"__{_method}__", _binary(_name, reflected=False))
    setattr(Handle, f"__r{_method}__", _binary(_name, reflected=True))  # a `__rlt__` is never called


def write_back(old: Any, new: Any) -> Any:
    """Makes the tests' `old` what the candidate made of its copy, in place, as a call in one process would; returns
    `old` if that can be done, else `new`.

    Containers of the same kind keep their identity, level by level, so that a list within a list that the
    tests also hold by another name changes too. What two arguments share is not shared on the other side.
    """
    if old is new or type(old) is not type(new):
        return new
    if isinstance(old, tuple):
        for each in zip(old, new, strict=False):
            write_back(*each)
        return old
    if isinstance(old, dict):
        new = {key: write_back(old.get(key), item) for key, item in new.items()}
        old.clear()
        old.update(new)
    elif isinstance(old, list | bytearray | deque):
        new = [*map(write_back, old, new), *list(new)[len(old) :]]
        old.clear()
        old.extend(new)
    elif isinstance(old, set):
        old &= new
        old |= new
    else:
        return new
    return old
