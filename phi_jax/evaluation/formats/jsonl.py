"""Rows of a file that others wrote, each with the place that an error about it names."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from phi_jax.errors import UserError

_T = TypeVar("_T")
_NAMES = {str: "text", int: "whole number", float: "number", list: "list"}


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line of JSON lines, or of each item of a JSON list; unpacked where it ends in .gz.

    Raises UserError naming file and place for whatever is damaged.
    """
    text = _read_text(path)
    if re.match(r"\s*\[\s*\{", text):
        for number, item in enumerate(_parsed(text, str(path)), 1):
            yield f"{path}: item {number}", _object(item, f"{path}: item {number}")
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                place = f"{path}:{number}"
                yield place, _object(_parsed(line, place), place)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises UserError naming the file where it is damaged or holds none."""
    return _object(_parsed(_read_text(path), str(path)), str(path))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); correct it, or get a good copy") from None


def _object(row: object, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: not a JSON object; correct or remove it")
    return row


def field_of(row: dict[str, Any], name: str, kind: type[_T], place: str, format_name: str) -> _T:
    """row[name], which is of this kind. Raises UserError naming place and field where it is not."""
    value = row.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{place}: no {_NAMES[kind]} in field {name!r}; {format_name}'s format has it")
    return value


def texts_of(row: dict[str, Any], name: str, place: str, format_name: str) -> list[str]:
    """row[name], a list of texts. Raises UserError naming place and field where it is not."""
    values = field_of(row, name, list, place, format_name)
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{place}: field {name!r} holds something else than texts; {format_name}'s format does not")
    return values
