"""What lint has to say about one thing in a directory, and the JSON that it reads there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

EVERYBODY = ("every client",)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong in a model directory. `str(finding)` is its line.

    severity: "error" = hardly anybody loads it, or it computes wrong numbers everywhere;
        "warning" = the clients named fail or go silently wrong, others do well.
    rule: the name of the rule, e.g. "kv-heads"; place: the file; clients: who fails or goes wrong, each named in
    `problem` too; remedy: what to do.
    """

    severity: Literal["error", "warning"]
    rule: str
    place: str
    clients: tuple[str, ...]
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity} {self.place}: {self.problem}; {self.remedy}"


def error(rule: str, place: str, problem: str, remedy: str) -> Finding:
    """What no client is spared."""
    return Finding("error", rule, place, EVERYBODY, problem, remedy)


def warning(rule: str, place: str, clients: Sequence[str], problem: str, remedy: str) -> Finding:
    """What only `clients` suffer from."""
    return Finding("warning", rule, place, tuple(clients), problem, remedy)


class Kind(NamedTuple):
    """What the value of a field has to be."""

    name: str
    holds: Callable[[Any], bool]


WHOLE = Kind("a whole number", lambda x: isinstance(x, int) and not isinstance(x, bool))
NUMBER = Kind("a number", lambda x: isinstance(x, int | float) and not isinstance(x, bool))
TEXT = Kind("a string", lambda x: isinstance(x, str))
OBJECT = Kind("an object", lambda x: isinstance(x, dict))
IDS = Kind("a token's id, or a list of them", lambda x: all(map(WHOLE.holds, x if isinstance(x, list) else [x])))


def read_object(
    path: Path, findings: list[Finding], fields: Mapping[str, Kind], *, passed_over_by: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """The JSON object in a file. None where there is no such file; None and a finding where it is no JSON object.

    fields: those that lint goes on to read, see `check`. passed_over_by: who goes on silently without the file; by
    default nobody does.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return check(content, fields, path.name, findings)
        reason = "not a JSON object"
    except ValueError as wrong:
        reason = f"not JSON ({wrong})"
    if passed_over_by:
        problem = f"{reason}: {' and '.join(passed_over_by)} go on without it, silently"
        findings.append(warning("damaged", path.name, passed_over_by, problem, "get a good copy"))
    else:
        findings.append(error("damaged", path.name, f"{reason}: every client fails", "get a good copy"))
    return None


def check(content: dict[str, Any], fields: Mapping[str, Kind], place: str, findings: list[Finding]) -> dict[str, Any]:
    """`content` without the fields that are of another kind than `fields` says, each of which is a finding.

    A null stays: what it means is for the rules to say.
    """
    for field, kind in fields.items():
        value = content.get(field)
        if value is not None and not kind.holds(value):
            problem = (
                f"{field} is {json.dumps(value)[:60]}, which is not {kind.name}: every client fails or misreads it"
            )
            findings.append(error("field", place, problem, "get a good copy"))
            content = {name: other for name, other in content.items() if name != field}
    return content


def named(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    others = len(names) - 1
    return names[0] if not others else f"{names[0]} and {others} other{'s' if others > 1 else ''}"
