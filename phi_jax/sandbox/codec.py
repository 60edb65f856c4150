"""Plain data as bytes, and nothing else: what travels between judge and candidate.

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

# Value types of the standard library that are rebuilt from plain arguments. Exact types only.
_VALUES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
    "datetime.date": lambda v: (v.year, v.month, v.day),
    "datetime.datetime": lambda v: (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond),
    "datetime.time": lambda v: (v.hour, v.minute, v.second, v.microsecond),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
}

# Builtin classes go by name, so that `int` passed to a candidate is its `int`, and `type(x) == int` works.
_CLASSES = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
_CLASS_NAMES = {value: name for name, value in _CLASSES.items()}


class CodecError(Exception):
    """Bytes that are no value, or a value that cannot travel (too deep, too large, of an unknown kind)."""


class Side:
    """How one process names the objects that stay where they are. The owner of an object is "C" (candidate)
    or "J" (judge)."""

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
    except CodecError:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
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


def _sized(tag: bytes, payload: bytes) -> bytes:
    return tag + _LENGTH.pack(len(payload)) + payload


def _put(value: Any, side: Side, parts: list[bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CodecError(f"a value nested deeper than {MAX_DEPTH} levels")
    kind = type(value)
    if value is None:
        parts.append(b"N")
    elif kind is bool:
        parts.append(b"T" if value else b"F")
    elif kind is int:
        parts.append(_sized(b"i", value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)))
    elif kind is float:
        parts.append(b"f" + _DOUBLE.pack(value))
    elif kind is str:
        parts.append(_sized(b"s", value.encode("utf-8", "surrogatepass")))
    elif kind in _SEQUENCES:
        parts.append(_SEQUENCES[kind] + _LENGTH.pack(len(value)))
        for item in value:
            _put(item, side, parts, depth + 1)
    elif kind in _MAPPINGS:
        parts.append(_MAPPINGS[kind] + _LENGTH.pack(len(value)))
        for key, item in value.items():
            _put(key, side, parts, depth + 1)
            _put(item, side, parts, depth + 1)
    elif kind is complex:
        parts.append(b"c" + _DOUBLE.pack(value.real) + _DOUBLE.pack(value.imag))
    elif kind is bytes:
        parts.append(_sized(b"b", value))
    elif kind is bytearray:
        parts.append(_sized(b"y", bytes(value)))
    elif kind is range:
        parts.append(b"r")
        for item in (value.start, value.stop, value.step):
            _put(item, side, parts, depth + 1)
    elif kind is slice:
        parts.append(b"k")
        for item in (value.start, value.stop, value.step):
            _put(item, side, parts, depth + 1)
    elif kind is deque:
        parts.append(b"q")
        _put(value.maxlen, side, parts, depth + 1)
        _put(list(value), side, parts, depth + 1)
    elif value is Ellipsis:
        parts.append(b"E")
    elif value is NotImplemented:
        parts.append(b"I")
    elif kind is type and value in _CLASS_NAMES:
        parts.append(_sized(b"n", _CLASS_NAMES[value].encode()))
    else:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if (
            name in _VALUES
            and getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
            and getattr(value, "tzinfo", None) is None
        ):
            parts.append(_sized(b"v", name.encode()))
            _put(_VALUES[name](value), side, parts, depth + 1)
        else:
            owner, number = side.refer(value)
            parts.append(owner.encode() + _LENGTH.pack(number))


_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z"}
# A defaultdict's factory is code and stays behind: it arrives as a dict, which compares the same.
_MAPPINGS: dict[type, bytes] = {dict: b"d", Counter: b"U", OrderedDict: b"O", defaultdict: b"d"}
_BUILD_SEQUENCE: dict[bytes, Callable[[list[Any]], Any]] = {
    b"l": list,
    b"t": tuple,
    b"S": set,
    b"Z": frozenset,
}
_BUILD_MAPPING: dict[bytes, Callable[[], Any]] = {b"d": dict, b"U": Counter, b"O": OrderedDict}


class _Reader:
    """A position in the bytes of one value."""

    def __init__(self, data: bytes, side: Side) -> None:
        self.data = data
        self.side = side
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise CodecError("a value ends early")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self) -> int:
        return int(_LENGTH.unpack(self.take(4))[0])

    def sized(self) -> bytes:
        return self.take(self.number())

    def count(self) -> int:
        count = self.number()
        # Every item takes a byte at least, so a false count cannot make us reserve memory.
        if count > len(self.data) - self.position:
            raise CodecError("a count above the bytes that follow")
        return count

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CodecError(f"a value nested deeper than {MAX_DEPTH} levels")
        tag = self.take(1)
        if tag == b"i":
            return int.from_bytes(self.sized(), "little", signed=True)
        if tag == b"s":
            return self.sized().decode("utf-8", "surrogatepass")
        if tag in _BUILD_SEQUENCE:
            return _BUILD_SEQUENCE[tag]([self.value(depth + 1) for _ in range(self.count())])
        if tag in _BUILD_MAPPING:
            mapping = _BUILD_MAPPING[tag]()
            for _ in range(self.count()):
                key = self.value(depth + 1)
                mapping[key] = self.value(depth + 1)
            return mapping
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == b"f":
            return _DOUBLE.unpack(self.take(8))[0]
        if tag == b"c":
            return complex(_DOUBLE.unpack(self.take(8))[0], _DOUBLE.unpack(self.take(8))[0])
        if tag == b"b":
            return self.sized()
        if tag == b"y":
            return bytearray(self.sized())
        if tag in (b"r", b"k"):
            bounds = [self.value(depth + 1) for _ in range(3)]
            if tag == b"r":
                if any(type(bound) is not int for bound in bounds):
                    raise CodecError("a range of something else than integers")
                return range(*bounds)
            return slice(*bounds)
        if tag == b"q":
            maxlen, items = self.value(depth + 1), self.value(depth + 1)
            if (maxlen is not None and type(maxlen) is not int) or type(items) is not list:
                raise CodecError("a malformed deque")
            return deque(items, maxlen)
        if tag == b"n":
            return _CLASSES[self.name(_CLASSES)]
        if tag == b"v":
            module, _, kind = self.name(_VALUES).rpartition(".")
            arguments = self.value(depth + 1)
            if type(arguments) is not tuple or any(type(a) not in (int, str) for a in arguments):
                raise CodecError(f"malformed {kind}")
            return getattr(importlib.import_module(module), kind)(*arguments)
        if tag in (b"C", b"J"):
            return self.side.resolve(tag.decode(), self.number())
        raise CodecError("an unknown tag")

    def name(self, known: dict[str, Any]) -> str:
        name = self.sized().decode("ascii")
        if name not in known:
            raise CodecError("an unknown name")
        return name


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"T": True, b"F": False, b"E": Ellipsis, b"I": NotImplemented}
