"""Every field of a config: its range or its choices, whether it decides a result, and whether it names a path.

A line of fields.toml says it of each. A field that says only where, how fast or how often something is kept decides
nothing: changing it makes no artifact stale. A path stands for the digest of what it holds (store/digests.py). Meaning,
unit and source of each field stand beside its value in configs/phi_1.py and configs/nano.py.
"""

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field may hold. kind: of _KINDS. low, high: both allowed (`above`: low itself is not), of a number, of how
    many texts, or of a text's length; choices: of a text, or of each of several.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    kind: str = "a text in one line"
    choices: Sequence[str] = ()
    decides: bool = True  # what comes out; else it says only where, how fast or how often something is kept
    path: bool = False  # whose digest stands for it
    or_name: bool = False  # a path only where a "/" is in it
    neutral: Any = None  # at this value a field stays out of the key, as if it were not there: it came later
    ordered: bool = True  # whether the order of several decides

    def problem(self, value: Any) -> str:
        """Why the field may not hold the value; "" where it may."""
        if not _KINDS[self.kind](value):
            return f"must be {self.kind}"
        if self.choices:
            unknown = {*([value] if isinstance(value, str) else value)} - {*self.choices}
            return f"use one of {', '.join(map(repr, self.choices))}" if unknown else ""
        if isinstance(value, str | list | tuple):
            return "must not be empty" if len(value) < self.low else ""
        most = min(self.high, _MOST[self.kind])
        # NaN fails every comparison, and infinity is above every `high`.
        if self.low <= value <= most and not (self.above and value == self.low):
            return ""
        return f"must be {self.kind}, {'above' if self.above else 'at least'} {self.low:g} and at most {most:g}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not value.isspace() and not re.search("[\n\r\0\ud800-\udfff]", value)


def _all(values: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple) and all(map(holds, values))


_KINDS = {
    "a whole number": _is_whole,
    "a number": lambda value: _is_whole(value) or isinstance(value, float),
    "True or False": lambda value: isinstance(value, bool),
    "a text in one line": _is_text,
    "several texts, each in one line": lambda values: _all(values, lambda value: _is_text(value) and value != ""),
    "several whole numbers": lambda values: _all(values, _is_whole),
    "several pairs": lambda values: _all(values, lambda value: isinstance(value, list | tuple)),  # graph.py says more
}
# What float64 holds exactly, and what float32 holds.
_MOST = {"a whole number": 10**15, "a number": 3e38, "True or False": 1}

# Dotted path -> Field. "*" stands for the name of an entry. `training` stands for itself and every section that is not
# named here, such as `finetune`: a model may name it as the rules of its training.
_TABLE = Path(__file__).with_name("fields.toml").read_text(encoding="utf-8")
FIELDS = {path: Field(**about) for path, about in tomllib.loads(_TABLE).items()}
_ENTRIES = ("teachers", "texts", "models")  # sections whose next name is an entry's
_SECTIONS = {path.partition(".")[0] for path in FIELDS}


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every field of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping) and (value or not path):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def field_of(path: str) -> Field | None:
    """The Field at a dotted path, or None."""
    section, _, rest = path.partition(".")
    if section in _ENTRIES:
        return FIELDS.get(f"{section}.*.{rest.rpartition('.')[2]}") if "." in rest else None
    return FIELDS.get(path if section in _SECTIONS else f"training.{rest}")


def check_whole(values: Mapping[str, Any]) -> None:
    """As `check`, of a whole config: raises UserError for a field that is not there, too."""
    found = dict(leaves(values))
    if missing := [path for path in FIELDS if "*" not in path and path not in found]:
        raise UserError(f"config.{missing[0]}: must have a value; configs/phi_1.py says which")
    check(values)


def check(values: Mapping[str, Any]) -> None:
    """Checks each field on its own. Raises UserError naming the first that is of another kind than its own, or out of
    its range.
    """
    for path, value in leaves(values):
        field = field_of(path)
        if field is None:
            raise UserError(
                f"config.{path}: no such field; the fields are those of configs/phi_1.py and configs/nano.py"
            )
        if problem := field.problem(value):
            raise UserError(f"config.{path}={value!r}: {problem}")
