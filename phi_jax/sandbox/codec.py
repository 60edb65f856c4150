"""Plain data as bytes, and nothing else: what travels between tester and candidate.

Never pickle, marshal or eval: their decoders run what the sender likes. Here a value is a tag byte, a length or count,
and its payload or items; the decoder builds exact builtin types only and checks every length, count and depth.
Anything else is a *reference*: a number that stands for an object which stays in its own process (channel.py).
"""

import builtins
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from types import NoneType
from typing import Any

MAX_DEPTH = 150  # levels of nesting; far below the interpreter's recursion limit

_LENGTH = struct.Struct(">I")
_DOUBLE = struct.Struct(">d")

# Builtin classes go by name, so that `int` passed to a candidate is its `int`, and `type(x) == int` works.
_CLASSES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}

_CONSTANTS = {None: b"N", True: b"T", False: b"F"}
_FROM_CONSTANTS = {tag: value for value, tag in _CONSTANTS.items()}

# {type: (tag, to bytes, from bytes)}
_SCALARS: dict[type, tuple[bytes, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    int: (
        b"i",
        lambda v: v.to_bytes((v.bit_length() + 8) // 8, "little", signed=True),
        lambda data: int.from_bytes(data, "little", signed=True),
    ),
    float: (b"f", _DOUBLE.pack, lambda data: _DOUBLE.unpack(data)[0]),
    str: (b"s", lambda v: v.encode("utf-8", "surrogatepass"), lambda data: data.decode("utf-8", "surrogatepass")),
    bytes: (b"b", bytes, bytes),
    bytearray: (b"y", bytes, bytearray),
    type: (b"n", lambda v: v.__name__.encode(), lambda data: _CLASSES[data.decode("ascii")]),
}


def _flat(mapping: dict[Any, Any]) -> list[Any]:
    return [each for pair in mapping.items() for each in pair]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


# {type: (tag, to items, from items)}. A defaultdict's factory is code and stays behind: it arrives as a dict, which
# compares the same.
_CONTAINERS: dict[type, tuple[bytes, Callable[[Any], Any], Callable[[list[Any]], Any]]] = {
    list: (b"l", list, list),
    tuple: (b"t", list, tuple),
    set: (b"S", list, set),
    frozenset: (b"Z", list, frozenset),
    deque: (b"q", list, deque),
    defaultdict: (b"d", _flat, _pairs),
    dict: (b"d", _flat, _pairs),
    Counter: (b"U", _flat, lambda items: Counter(_pairs(items))),
    OrderedDict: (b"O", _flat, lambda items: OrderedDict(_pairs(items))),
}
# Types that are rebuilt from the arguments of their constructor, as copy and pickle see them.
_VALUES = {kind.__name__: kind for kind in (complex, range, slice, Decimal, Fraction, date, datetime, time, timedelta)}
_ARGUMENTS = (int, float, str, bytes, NoneType)

_FROM_BYTES = {tag: unpack for tag, _, unpack in _SCALARS.values()}
_FROM_ITEMS = {tag: unpack for tag, _, unpack in _CONTAINERS.values()} | {
    b"v": lambda items: _VALUES[items[0]](*items[1:])
}


class CodecError(Exception):
    """Bytes that are no value, or a value that cannot travel (too deep, too large, of an unknown kind)."""


def _no_reference(value: object) -> tuple[bytes, int]:
    raise CodecError(f"a {type(value).__name__} object cannot be sent")


def _nothing(tag: bytes, number: int) -> object:
    raise CodecError("a reference to nothing")


def encode(value: object, limit: int, refer: Callable[[object], tuple[bytes, int]] = _no_reference) -> bytes:
    """`value` as at most `limit` bytes. Raises CodecError.

    refer: (b"C" or b"G", number) for what is not plain data; raises CodecError for what may not be sent.
    """
    parts = []

    def put(value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise CodecError(f"a value nested deeper than {MAX_DEPTH} levels")
        kind = type(value)
        if kind in (NoneType, bool):
            parts.append(_CONSTANTS[value])
        elif kind in _SCALARS and (kind is not type or _CLASSES.get(value.__name__) is value):
            tag, pack, _ = _SCALARS[kind]
            payload = pack(value)
            parts.append(tag + _LENGTH.pack(len(payload)) + payload)
        elif found := _items(value, kind):
            tag, items = found
            parts.append(tag + _LENGTH.pack(len(items)))
            for item in items:
                put(item, depth + 1)
        elif kind.__module__ == "numpy" and getattr(value, "ndim", 1) == 0 and type(value.item()) is not kind:
            # A scalar of numpy as Python's: they compare equal, and the tests compute with it.
            put(value.item(), depth + 1)
        else:
            tag, number = refer(value)
            parts.append(tag + _LENGTH.pack(number))

    put(value, 0)
    data = b"".join(parts)
    if len(data) > limit:
        raise CodecError(f"a value of {len(data)} bytes is above the limit of {limit}")
    return data


def _items(value: Any, kind: type) -> tuple[bytes, list[Any]] | None:
    """The tag and the items of a value that is made of others; None for anything else."""
    if kind in _CONTAINERS:
        tag, unpack, _ = _CONTAINERS[kind]
        return tag, unpack(value)
    if _VALUES.get(kind.__name__) is kind:
        arguments = [each for each in value.__reduce_ex__(2)[1] if each is not kind]
        if all(type(argument) in _ARGUMENTS for argument in arguments):
            return b"v", [kind.__name__, *arguments]
    return None


def decode(data: bytes, resolve: Callable[[bytes, int], object] = _nothing) -> Any:
    """The value that `data` encodes, all of it. Raises CodecError for anything else.

    resolve: the object that a reference stands for; raises CodecError for a number never given out.
    """
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        start, position = position, position + count
        if position > len(data):
            raise CodecError("a value ends early")
        return data[start:position]

    def get(depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CodecError(f"a value nested deeper than {MAX_DEPTH} levels")
        tag = take(1)
        if tag in _FROM_CONSTANTS:
            return _FROM_CONSTANTS[tag]
        (number,) = _LENGTH.unpack(take(4))
        if tag in _FROM_BYTES:
            return _FROM_BYTES[tag](take(number))
        if tag in _FROM_ITEMS:
            # Every item takes a byte at least, so a false count cannot make us reserve memory.
            if number > len(data) - position:
                raise CodecError("a count above the bytes that follow")
            return _FROM_ITEMS[tag]([get(depth + 1) for _ in range(number)])
        if tag in (b"C", b"G"):
            return resolve(tag, number)
        raise CodecError("an unknown tag")

    try:
        value = get(0)
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError, struct.error) as error:
        raise CodecError(f"malformed value: {type(error).__name__}") from None
    if position != len(data):
        raise CodecError("bytes after the end of a value")
    return value


def is_plain(value: Any) -> bool:
    """Whether `value`, as `decode` gives it, is None, bool, int, float, str, or a list, tuple or dict of these: of
    exactly these types, so that nothing of it can run."""
    if type(value) is dict:
        value = [*value.items()]
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return type(value) in (NoneType, bool, int, float, str)
