"""Plain data as bytes, and nothing else: what travels between tester and candidate.

Never pickle, marshal or eval: their decoders run what the sender likes. Here a value is a tag byte and its
payload; the decoder builds exact builtin types only and checks every length, count and depth. Anything else
is a *reference*: a number that stands for an object which stays in its own process (`Side`).
"""

import builtins
import importlib
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 150  # levels of nesting; far below the interpreter's recursion limit

_LENGTH = struct.Struct(">I")
_DOUBLE = struct.Struct(">d")

# Builtin classes go by name, so that `int` passed to a candidate is its `int`, and `type(x) == int` works.
_CLASSES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
_CLASS_NAMES = {value: name for name, value in _CLASSES.items()}

# Each tag but a constant's is followed by four bytes: the length of its payload, the number of its items, or a number.
_CONSTANTS: dict[bytes, Any] = {b"N": None, b"T": True, b"F": False, b"E": Ellipsis, b"I": NotImplemented}
_CONSTANT_TAGS = {id(value): tag for tag, value in _CONSTANTS.items()}

_BYTES_OF: dict[type, tuple[bytes, Callable[[Any], bytes]]] = {
    int: (b"i", lambda v: v.to_bytes((v.bit_length() + 8) // 8, "little", signed=True)),
    float: (b"f", _DOUBLE.pack),
    str: (b"s", lambda v: v.encode("utf-8", "surrogatepass")),
    bytes: (b"b", bytes),
    bytearray: (b"y", bytes),
}
_FROM_BYTES: dict[bytes, Callable[[bytes], Any]] = {
    b"i": lambda data: int.from_bytes(data, "little", signed=True),
    b"f": lambda data: _DOUBLE.unpack(data)[0],
    b"s": lambda data: data.decode("utf-8", "surrogatepass"),
    b"b": bytes,
    b"y": bytearray,
    b"n": lambda data: _CLASSES[data.decode("ascii")],
}

# Containers travel as their items, mappings as key, value, key, value. A defaultdict's factory is code and stays
# behind: it arrives as a dict, which compares the same.
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z"}
_MAPPINGS: dict[type, bytes] = {dict: b"d", Counter: b"U", OrderedDict: b"O", defaultdict: b"d"}
_FROM_ITEMS: dict[bytes, Callable[[list[Any]], Any]] = {
    b"l": list,
    b"t": tuple,
    b"S": set,
    b"Z": frozenset,
    b"d": lambda items: _pairs(items),
    b"U": lambda items: Counter(_pairs(items)),
    b"O": lambda items: OrderedDict(_pairs(items)),
}


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


# Value types and the attributes that they are rebuilt from. Their constructors call nothing that stands in an argument
# of one of the types _ARGUMENTS.
_VALUES: dict[str, str] = {
    "builtins.complex": "real imag",
    "builtins.range": "start stop step",
    "builtins.slice": "start stop step",
    "collections.deque": "",  # its items and its greatest length
    "decimal.Decimal": "",  # its text
    "fractions.Fraction": "numerator denominator",
    "datetime.date": "year month day",
    "datetime.datetime": "year month day hour minute second microsecond",
    "datetime.time": "hour minute second microsecond",
    "datetime.timedelta": "days seconds microseconds",
}
_ARGUMENTS = (int, float, str, list, type(None))


class CodecError(Exception):
    """Bytes that are no value, or a value that cannot travel (too deep, too large, of an unknown kind)."""


class Side:
    """How one process names the objects that stay where they are. The owner of an object is "C" (candidate)
    or "G" (given by the tests)."""

    def refer(self, value: object) -> tuple[str, int]:
        """(owner, number) for a value that is not plain data. Raises CodecError if it may not be sent."""
        raise CodecError(f"a {type(value).__name__} object cannot be sent")

    def resolve(self, owner: str, number: int) -> object:
        """The object that a reference stands for. Raises CodecError for a number never given out."""
        raise CodecError("a reference to nothing")


def encode(value: object, side: Side, limit: int) -> bytes:
    """`value` as at most `limit` bytes. Raises CodecError."""
    parts: list[bytes] = []
    _put(value, side, parts, 0)
    data = b"".join(parts)
    if len(data) > limit:
        raise CodecError(f"a value of {len(data)} bytes is above the limit of {limit}")
    return data


def decode(data: bytes, side: Side) -> Any:
    """The value that `data` encodes, all of it. Raises CodecError for anything else."""
    reader = _Reader(data, side)
    try:
        value = reader.value(0)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError, struct.error) as error:
        raise CodecError(f"malformed value: {type(error).__name__}") from None
    if reader.position != len(data):
        raise CodecError("bytes after the end of a value")
    return value


def is_plain(value: object) -> bool:
    """Whether `value`, as `decode` gives it, is None, bool, int, float, str, or a list, tuple or dict of these: of
    exactly these types, so that nothing of it can run."""
    if type(value) in (list, tuple):
        return all(map(is_plain, value))  # type: ignore[call-overload]
    if type(value) is dict:
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _put(value: Any, side: Side, parts: list[bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CodecError(f"a value nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if id(value) in _CONSTANT_TAGS:
        parts.append(_CONSTANT_TAGS[id(value)])
    elif kind in _BYTES_OF:
        tag, bytes_of = _BYTES_OF[kind]
        _put_sized(tag, bytes_of(value), parts)
    elif kind in _SEQUENCES:
        _put_items(_SEQUENCES[kind], value, side, parts, depth)
    elif kind in _MAPPINGS:
        _put_items(_MAPPINGS[kind], [each for pair in value.items() for each in pair], side, parts, depth)
    elif kind is type and value in _CLASS_NAMES:
        _put_sized(b"n", _CLASS_NAMES[value].encode(), parts)
    elif (arguments := _arguments(value, kind)) is not None:
        _put_sized(b"v", f"{kind.__module__}.{kind.__qualname__}".encode(), parts)
        _put(arguments, side, parts, depth + 1)
    elif type(number := _number(value, kind)) is not kind:
        _put(number, side, parts, depth + 1)
    else:
        owner, place = side.refer(value)
        parts.append(owner.encode() + _LENGTH.pack(place))


def _put_sized(tag: bytes, payload: bytes, parts: list[bytes]) -> None:
    parts.append(tag + _LENGTH.pack(len(payload)) + payload)


def _put_items(tag: bytes, items: Any, side: Side, parts: list[bytes], depth: int) -> None:
    parts.append(tag + _LENGTH.pack(len(items)))
    for item in items:
        _put(item, side, parts, depth + 1)


def _arguments(value: Any, kind: type) -> tuple[Any, ...] | None:
    """What `value` is rebuilt from, if it is exactly of one of the value types."""
    module, name = kind.__module__, kind.__qualname__
    attributes = _VALUES.get(f"{module}.{name}")
    if attributes is None or getattr(sys.modules.get(module), name, None) is not kind or getattr(value, "tzinfo", None):
        return None
    arguments = tuple(getattr(value, attribute) for attribute in attributes.split())
    if not attributes:
        arguments = (list(value), value.maxlen) if kind is deque else (str(value),)
    return arguments if all(type(argument) in _ARGUMENTS for argument in arguments) else None


def _number(value: Any, kind: type) -> Any:
    """A scalar of numpy as Python's: they compare equal, and the tests compute with it. Else `value` itself."""
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value


class _Reader:
    """A position in the bytes of one value."""

    def __init__(self, data: bytes, side: Side) -> None:
        self.data = data
        self.side = side
        self.position = 0

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > len(self.data):
            raise CodecError("a value ends early")
        return self.data[start : self.position]

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CodecError(f"a value nested deeper than {MAX_DEPTH} levels")
        tag = self.take(1)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        (number,) = _LENGTH.unpack(self.take(4))
        if tag in _FROM_BYTES:
            return _FROM_BYTES[tag](self.take(number))
        if tag in _FROM_ITEMS:
            # Every item takes a byte at least, so a false count cannot make us reserve memory.
            if number > len(self.data) - self.position:
                raise CodecError("a count above the bytes that follow")
            return _FROM_ITEMS[tag]([self.value(depth + 1) for _ in range(number)])
        if tag == b"v":
            name, arguments = self.take(number).decode("ascii"), self.value(depth + 1)
            if name not in _VALUES or type(arguments) is not tuple or any(type(a) not in _ARGUMENTS for a in arguments):
                raise CodecError("a malformed value of the standard library")
            module, _, kind = name.rpartition(".")
            return getattr(importlib.import_module(module), kind)(*arguments)
        if tag in (b"C", b"G"):
            return self.side.resolve(tag.decode(), number)
        raise CodecError("an unknown tag")
