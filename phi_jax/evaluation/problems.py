"""Benchmarks: problems that are built in, or read from a file in one of the formats that others use.

MBPP (Austin et al. 2021) is evaluated so:
- The 500 problems of the test split, task_id 11 to 510; others in the file (few-shot prompts, validation, train) are
  not evaluated. sanitized-mbpp.json holds 257 of the 500.
- Zero-shot: the prompt is a docstring of the problem's text and the first of its tests, and nothing else, as in InCoder
  (Fried et al. 2022) and bigcode-evaluation-harness. Austin et al. show all tests, in a prompt with examples. The phi-1
  paper gives a score and is silent about its prompt.
- The completion is a whole function, with whatever stands beside it at top level, up to the first of
  bigcode-evaluation-harness's stop strings (stops.py, rule `mbpp`).
- It passes when all of test_list hold, with what test_setup_code or test_imports define.
"""

import ast
import dataclasses
import inspect
import json
import keyword
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation import evalplus
from phi_jax.evaluation.stops import STOP_STRINGS, body_indent
from phi_jax.progress import note
from phi_jax.store import python_text, rows
from phi_jax.store.rows import Row

# All ours. idioms: small completions in the idiom of library code. unconventional: 50 problems of several steps, unlike
# common exercises (paper, section 4, whose own were not published). libraries: ten modules of the standard library
# that the grammar's exercises never import; the paper's examples of such (section 3.2: pygame, tkinter) need a display,
# so that no test can score them.
BUILT_IN = ("idioms", "unconventional", "libraries")
HELD_OUT = "nano"  # in a config: the problems whose behaviours the grammar keeps out of its texts
# Benchmarks that the project does not contain -> where their files are to be had.
OTHERS = {
    "humaneval": "data/HumanEval.jsonl.gz of openai/human-eval, HumanEvalPlus.jsonl.gz of evalplus's releases",
    "mbpp": "mbpp/mbpp.jsonl of google-research/google-research, MbppPlus.jsonl.gz of evalplus's releases",
}
_MBPP_TEST_SPLIT = range(11, 511)
_MBPP_PROTOCOL = (
    "MBPP is evaluated on its test split (task_id 11 to 510), zero-shot: a docstring of the text and the first test, "
    "then a whole function up to bigcode's stop strings"
)


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
    base_tests: str = ""  # those of the tests that have a verdict of their own (EvalPlus's base inputs)
    row: Row = dataclasses.field(default_factory=dict, repr=False, compare=False)  # as the file has it


def load_problems(benchmark: str | None, file: str | None = None) -> tuple[str, list[Problem]]:
    """(name, problems) of a benchmark that is built in, or in a file: `file`, or `benchmark` itself.

    A file of rows (store/rows.py) is in the format of human-eval, MBPP or EvalPlus, which is told by its fields.
    benchmark: a name in BUILT_IN or OTHERS; None: whatever the file holds. Raises UserError naming file, line and field
    for what cannot be read, and for a file that does not hold the benchmark named.
    """
    if benchmark in BUILT_IN:
        if file is not None:
            raise UserError(f"--problems {file}: the benchmark {benchmark} is built in; leave out one of the two")
        return benchmark, _read(Path(__file__).with_name(f"{benchmark}.jsonl"))
    path = Path(file or benchmark or "")
    if not path.is_file():
        raise UserError(
            f"benchmark {path}: neither built in ({', '.join(BUILT_IN)}) nor a file that is there; get "
            f"{' or '.join(OTHERS.values())} on GitHub, or a file in one of their formats, and name it: of a run in "
            "config.decontaminate.problems and config.evaluate.benchmark, of a command with --problems FILE"
        )
    problems = _read(path)
    if benchmark in OTHERS and (benchmark == "mbpp") != all(p.task_id.lower().startswith("mbpp/") for p in problems):
        raise UserError(f"--problems {path}: not the problems of {benchmark}; get {OTHERS[benchmark]}")
    return re.sub(r"\.(jsonl?|parquet)(\.gz|\.zst)?$", "", rows.escaped(path.name)), problems


def _read(path: Path) -> list[Problem]:
    problems: dict[str, Problem] = {}
    left_out = 0
    for place, given in whole_rows(path):
        row = {k: rows.plain(v) if isinstance(v, str) else v for k, v in given.items()}
        name = "EvalPlus" if "base_input" in row else "MBPP" if "test_list" in row else "human-eval"
        _require(row, place, "a problem", ("renderings",), renderings="list of texts")
        try:
            fields = {k: rows.normal(v) if isinstance(v, str) else v for k, v in _FORMATS[name](row, place).items()}
        except (TypeError, ValueError) as error:  # Parquet has types that JSON has not
            raise UserError(f"{place}: a field of the problem: {error}; correct or remove it") from None
        problem = Problem(**fields, row=row)
        if name == "MBPP" and row["task_id"] not in _MBPP_TEST_SPLIT:
            left_out += 1
            continue
        if problem.task_id in problems:
            raise UserError(f"{place}: task_id {problem.task_id} appears twice; keep one")
        problems[problem.task_id] = problem
    if left_out:
        note(f"{path}: {_MBPP_PROTOCOL}; {left_out} problems outside the split are not evaluated")
    if not problems:
        raise UserError(f"{path}: holds no problem")
    return list(problems.values())


def whole_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) of a file of which every row is needed. Raises UserError naming file and place of one that is none.

    place: what an error about the row names.
    """
    for given in rows.read_rows(path):
        if given.fault:
            raise UserError(f"{given.place}: {given.fault}; correct or remove it, or get a good copy")
        yield given.place, given.row


# --- Formats -------------------------------------------------------------------------------------------------
# Each is (row, place) -> the fields of a Problem, and raises UserError naming place and field for what is missing.


def _of_human_eval(row: Row, place: str) -> dict[str, Any]:
    texts = dict.fromkeys(("task_id", "prompt", "entry_point", "test", "canonical_solution"), "text")
    _require(row, place, "human-eval", ("canonical_solution",), **texts)
    tests = python_text.parse(row["test"])
    checks = tests and [node for node in tests.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if row["test"].strip() and not checks:  # a file that is only held out needs no tests; execution.py asks for them
        raise UserError(f"{place}: field 'test' is not Python that defines a function `check`; correct or remove it")
    if not row["entry_point"].isidentifier() or keyword.iskeyword(row["entry_point"]):
        raise UserError(f"{place}: field 'entry_point' is {row['entry_point']!r}; name the function that is asked for")
    stop = row.get("stop") or "dedent"  # ours; human-eval's own file has no such field
    if stop not in list(STOP_STRINGS):
        raise UserError(f"{place}: field 'stop' is {stop!r}; use one of {', '.join(STOP_STRINGS)}")
    return {
        "task_id": row["task_id"],
        "prompt": row["prompt"],
        "tests": f"{row['test']}\ncheck({row['entry_point']})",
        "entry_point": row["entry_point"],
        "reference": row.get("canonical_solution"),
        "trusted": row["prompt"],
        "stop": stop,
    }


def _of_mbpp(row: Row, place: str) -> dict[str, Any]:
    """From a row of mbpp.jsonl or sanitized-mbpp.json."""
    text = "text" if "text" in row else "prompt"
    fields = {text: "text", "task_id": "whole number", "code": "text", "test_list": "list of texts"}
    optional = {"test_setup_code": "text", "test_imports": "list of texts"}
    _require(row, place, "MBPP", optional, **fields, **optional)
    tests = row["test_list"]
    return {
        "task_id": f"MBPP/{row['task_id']}",
        "prompt": f'"""\n{row[text]}\n{tests[0] if tests else ""}\n"""\n',
        "tests": "\n".join(tests),
        "entry_point": None,
        "reference": row["code"],
        "setup": row.get("test_setup_code") or "\n".join(row.get("test_imports") or ()),
        "stop": "mbpp",
    }


def _of_evalplus(row: Row, place: str) -> dict[str, Any]:
    """From a row of HumanEvalPlus.jsonl or MbppPlus.jsonl."""
    texts = dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution"), "text")
    # A problem of MBPP+ that has no plus inputs has {} there.
    row = {**row, "plus_input": [] if row.get("plus_input") == {} else row.get("plus_input")}
    _require(
        row, place, "EvalPlus", **texts, atol="number from 0", base_input="list of lists", plus_input="list of lists"
    )
    prompt, entry_point = row["prompt"], row["entry_point"]
    about = {"task_id": row["task_id"], "entry_point": entry_point, "atol": row["atol"]}
    about["reference"] = prompt + row["canonical_solution"]

    def call(**inputs: list[Any]) -> str:
        # JSON in a text: a source with megabytes of literals takes long to parse.
        return f"_evalplus['check']({entry_point}, {json.dumps({**about, 'inputs': inputs})!r})"

    return {
        "task_id": row["task_id"],
        "prompt": prompt,
        "tests": call(base=row["base_input"], plus=row["plus_input"]),
        "base_tests": call(base=row["base_input"]),
        "entry_point": entry_point,
        "reference": row["canonical_solution"],
        # Under one name, which no problem uses: the candidate's names and the reference's stay apart.
        "trusted": f"_evalplus = {{}}\nexec({inspect.getsource(evalplus)!r}, _evalplus)\n",
        "stop": "dedent" if body_indent(prompt) else "mbpp",  # MBPP+'s prompts ask for a whole function
    }


_FORMATS = {"human-eval": _of_human_eval, "MBPP": _of_mbpp, "EvalPlus": _of_evalplus}
_KINDS = {
    "text": lambda value: isinstance(value, str),
    "list of lists": lambda value: isinstance(value, list) and all(isinstance(item, list) for item in value),
    "list of texts": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "number from 0": lambda value: type(value) in (int, float) and 0 <= value < math.inf,
    "whole number": lambda value: type(value) is int,
}


def _require(row: Row, place: str, format_name: str, optional: Collection[str] = (), **kinds: str) -> None:
    """Raises UserError for the first field that is not of its kind of _KINDS. optional: those that may be missing."""
    for name, kind in kinds.items():
        value = row.get(name)
        if not (_KINDS[kind](value) or (value is None and name in optional)):
            raise UserError(f"{place}: no {kind} in field {name!r}; {format_name}'s format has it")
