"""EvalPlus (Liu et al. 2023): HumanEval+ and MBPP+ as its releases HumanEvalPlus.jsonl and MbppPlus.jsonl have them.

A problem has no asserts but inputs, and a solution that is right by definition: what it returns is what a candidate
has to return. A candidate passes the benchmark when it passes the base inputs (the original benchmark's) and the plus
inputs; the verdict on the base inputs alone is kept beside it, as EvalPlus reports both.

The sandbox's tests execute the source of this file and call `check` there, which compares a candidate with the
solution as evalplus 0.3.1 does (eval/__init__.py, data/mbpp.py). So the file imports nothing but the standard library
when it is loaded.
"""

import copy
import json
import math
from typing import Any

# --- Problems ------------------------------------------------------------------------------------------------


def problem_fields(row: dict[str, Any], place: str) -> dict[str, Any]:
    """The fields of a Problem. Raises UserError naming place and field for what is missing."""
    from pathlib import Path

    from phi_jax.evaluation.formats.jsonl import field_of
    from phi_jax.evaluation.stops import body_indent

    task_id, prompt, entry_point, solution = (
        field_of(row, name, str, place, "EvalPlus")
        for name in ("task_id", "prompt", "entry_point", "canonical_solution")
    )
    about = {
        "task_id": task_id,
        "entry_point": entry_point,
        "reference": prompt + solution,
        "atol": field_of(row, "atol", float, place, "EvalPlus"),
    }
    base = field_of(row, "base_input", list, place, "EvalPlus")
    # A problem of MBPP+ that has no plus inputs has {} there.
    plus = [] if row.get("plus_input") == {} else field_of(row, "plus_input", list, place, "EvalPlus")

    def call(**inputs: list[Any]) -> str:
        # JSON in a text: a source with megabytes of literals takes long to parse.
        return f"_evalplus['check']({entry_point}, {json.dumps({**about, 'inputs': inputs})!r})"

    return {
        "task_id": task_id,
        "prompt": prompt,
        "tests": call(base=base, plus=plus),
        "base_tests": call(base=base),
        "entry_point": entry_point,
        "reference": solution,
        # Under one name, which no problem uses: the candidate's names and the reference's stay apart.
        "trusted": f"_evalplus = {{}}\nexec({Path(__file__).read_text()!r}, _evalplus)\n",
        "stop": "dedent" if body_indent(prompt) else "mbpp",  # MBPP+'s prompts ask for a whole function
    }


# --- The comparison, in the sandbox ----------------------------------------------------------------------------

# Outputs that are compared as sets, those of which only matters whether there is one, and what is right beside the
# solution: the height as that of the apex above the base, the shorter number padded by zeros.
_SETS = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
}  # fmt: skip
_NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}
_ALSO_RIGHT = {
    "sum_div": lambda *_: 0,
    "surface_Area": lambda edge, height: round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2)),
    "digit_distance_nums": lambda a, b: sum(
        abs(int(x) - int(y)) for x, y in zip(f"{a:>099}", f"{b:>099}", strict=True)
    ),
}


def check(candidate: Any, tests: str) -> None:
    """Raises AssertionError naming group and number of the first input at which the candidate is wrong.

    tests: JSON, {"task_id", "entry_point", "reference": source, "atol", "inputs": {group: arguments of calls}}.
    """
    about = json.loads(tests)
    task_id, entry_point = about["task_id"], about["entry_point"]
    space: dict[str, Any] = {}
    exec(about["reference"], space)
    for group, rows in about["inputs"].items():
        atol = about["atol"]
        for number, row in enumerate(rows):
            arguments = arguments_of(task_id, row)
            expected = space[entry_point](*copy.deepcopy(arguments))
            # As EvalPlus has it: from the first float that is expected on, the tolerance holds.
            values = expected if isinstance(expected, list | tuple) and expected else [expected]
            if atol == 0 and all(isinstance(value, float) for value in values):
                atol = 1e-6
            try:
                out = candidate(*copy.deepcopy(arguments))
                right = is_right(task_id, entry_point, arguments, out, expected, atol)
            except Exception as error:
                raise AssertionError(f"{group} input {number}: {type(error).__name__}: {error}") from None
            assert right, f"{group} input {number}: a wrong output"


def is_right(task_id: str, entry_point: str, arguments: list[Any], out: Any, expected: Any, atol: float) -> bool:
    """Whether EvalPlus takes `out` for right. Raises what comparing them raises."""
    if task_id.startswith("HumanEval/") and entry_point == "find_zero":  # any root will do
        return bool(abs(sum(c * math.pow(out, i) for i, c in enumerate(arguments[0]))) <= atol)
    right = bool(out == expected)
    if task_id.startswith("Mbpp/"):
        if entry_point in _SETS:
            right = set(out) == set(expected)
        elif entry_point in _NOT_NONE:
            right = (out if isinstance(out, bool) else out is not None) == (expected is not None)
        elif entry_point in _ALSO_RIGHT:
            right = right or abs(out - _ALSO_RIGHT[entry_point](*arguments)) <= atol
        right = right or entry_point == "are_equivalent"
    return right or (atol != 0 and type(out) is type(expected) and _is_close(out, expected, atol))


def _is_close(out: Any, expected: Any, atol: float) -> bool:
    """numpy.allclose(out, expected, rtol=1e-7, atol=atol), without its broadcasting."""
    if isinstance(out, list | tuple) and isinstance(expected, list | tuple):
        return len(out) == len(expected) and all(_is_close(a, b, atol) for a, b in zip(out, expected, strict=True))
    if not all(isinstance(value, int | float | complex) for value in (out, expected)):
        return False
    return out == expected or abs(out - expected) <= atol + 1e-7 * abs(expected) < math.inf


# --- Arguments of MBPP+ that JSON does not have ----------------------------------------------------------------

# Which argument of which tasks becomes what: tuples for the lists at these depths, or the type that is named.
_CONVERSIONS = """
all 0: 2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809
all 1: 63 64 70 94 120 237 272 299 400 409 417 438 473 614 780
all 01: 259 278 401 445
all 0123456789: 580 615 791
first 0: 250 307 405 446 617 720 763 808
first 1: 75 413 444 722 753
first sets: 115
first complex: 252
first float: 124
second complex: 124
second 0: 106 750
"""


def arguments_of(task_id: str, row: list[Any]) -> list[Any]:
    """The arguments that a row of inputs stands for."""
    name, _, number = task_id.partition("/")
    converted = list(row)
    for line in _CONVERSIONS.strip().split("\n") if name == "Mbpp" else ():
        rule, _, tasks = line.partition(": ")
        which, kind = rule.split()
        if number in tasks.split():
            chosen = {"all": slice(None), "first": slice(1), "second": slice(1, 2)}[which]
            converted[chosen] = [_converted(value, kind) for value in converted[chosen]]
    return converted


def _converted(value: Any, kind: str) -> Any:
    if kind == "sets":
        return [set(item) if isinstance(item, list) and item else {} for item in value]
    return {"complex": complex, "float": float}[kind](value) if kind.isalpha() else _tuples(value, kind)


def _tuples(value: Any, depths: str, depth: int = 0) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item, depths, depth + 1) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    items = [_tuples(item, depths, depth + 1) for item in value]
    return tuple(items) if str(depth) in depths else items
