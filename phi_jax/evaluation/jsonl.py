"""Rows of a file that others wrote, each with the place that an error about it names."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from phi_jax.errors import UserError

_T = TypeVar("_T")
_NAMES = {str: "text", int: "whole number", float: "number", list: "list"}


def read_text(path: Path) -> str:
    """The text of a file, unpacked where it ends in .gz. Raises UserError naming it where it cannot be read."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None


def parse_rows(text: str, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line of JSON lines, or of each item of a JSON list of objects.

    Raises UserError naming the place of what is no JSON object.
    """
    if re.match(r"\s*\[\s*\{", text):
        try:
            items = json.loads(text)
        except ValueError as error:
            raise UserError(f"{place}: not JSON ({error}); get a good copy") from None
        for number, item in enumerate(items, 1):
            yield f"{place}: item {number}", _checked(item, f"{place}: item {number}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{place}:{number}", json_object(line, f"{place}:{number}")


def json_object(line: str, place: str) -> dict[str, Any]:
    """One line of a JSON-lines file. Raises UserError naming the place where it is no JSON object."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); mend or remove the line") from None
    return _checked(row, place)


def _checked(row: object, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: not a JSON object; mend or remove the line")
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
