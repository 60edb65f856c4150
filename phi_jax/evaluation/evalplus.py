"""What passes in EvalPlus (Liu et al. 2023), HumanEval+ and MBPP+ as its releases have them.

A problem has no asserts but inputs, and a solution that is right by definition: what it returns is what a candidate
has to return. A candidate passes the benchmark when it passes the base inputs (the original benchmark's) and the plus
inputs; the verdict on the base inputs alone is kept beside it, as EvalPlus reports both.

The sandbox's tests execute the source of this file and call `check` there, which compares a candidate with the
solution as evalplus 0.3.1 does (eval/__init__.py, data/mbpp.py), but for three problems of MBPP+ (sum_div, surface_Area
and digit_distance_nums) where EvalPlus takes a second answer for right too. So the file imports nothing but the
standard library.
"""

import copy
import json
import math
from typing import Any

# Problems whose outputs are compared as sets, and those of which only matters whether there is one.
_SETS = """
similar_elements find_char_long common_in_nested_lists extract_singly larg_nnum intersection_array find_dissimilar Diff
"""
_NOT_NONE = "check_str text_match_three text_starta_endb"
# Arguments of MBPP+ that JSON does not have: places among the arguments, what they become, and of which problems.
# Tuples for the lists at these depths, or the type that is named.
_CONVERSIONS = """\
01234567 0 2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809
01234567 1 63 64 70 94 120 237 272 299 400 409 417 438 473 614 780
01234567 01 259 278 401 445
01234567 0123456789 580 615 791
0 0 250 307 405 446 617 720 763 808
0 1 75 413 444 722 753
0 sets 115
0 complex 252
0 float 124
1 complex 124
1 0 106 750
"""


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
            out = candidate(*copy.deepcopy(arguments))
            right = is_right(task_id, entry_point, arguments, out, expected, atol)
            assert right, f"{group} input {number}: a wrong output"


def is_right(task_id: str, entry_point: str, arguments: list[Any], out: Any, expected: Any, atol: float) -> bool:
    """Whether EvalPlus takes `out` for right. Raises what comparing them raises."""
    if task_id.startswith("HumanEval/") and entry_point == "find_zero":  # any root will do
        return abs(sum(c * math.pow(out, i) for i, c in enumerate(arguments[0]))) <= atol
    if task_id.startswith("Mbpp/"):
        if entry_point in _SETS.split():
            return set(out) == set(expected)
        if entry_point in _NOT_NONE.split():
            return (out if isinstance(out, bool) else out is not None) == (expected is not None)
        if entry_point == "are_equivalent":
            return True
    return bool(out == expected) or (atol != 0 and type(out) is type(expected) and _is_close(out, expected, atol))


def _is_close(out: Any, expected: Any, atol: float) -> bool:
    """numpy.allclose(out, expected, rtol=1e-7, atol=atol), without its broadcasting."""
    if isinstance(out, list | tuple) and isinstance(expected, list | tuple):
        return len(out) == len(expected) and all(_is_close(a, b, atol) for a, b in zip(out, expected, strict=True))
    if not all(isinstance(value, int | float | complex) for value in (out, expected)):
        return False
    return out == expected or abs(out - expected) <= atol + 1e-7 * abs(expected) < math.inf


def arguments_of(task_id: str, row: list[Any]) -> list[Any]:
    """The arguments that a row of inputs stands for."""
    family, _, number = task_id.partition("/")
    for line in _CONVERSIONS.splitlines() if family == "Mbpp" else ():
        places, kind, *tasks = line.split()
        if number in tasks:
            row = [_converted(value, kind) if str(place) in places else value for place, value in enumerate(row)]
    return row


def _converted(value: Any, kind: str, depth: int = 0) -> Any:
    if kind == "sets":
        return [set(item) if isinstance(item, list) and item else {} for item in value]
    if kind in ("complex", "float"):
        return complex(value) if kind == "complex" else float(value)
    if isinstance(value, dict):
        return {key: _converted(item, kind, depth + 1) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    items = [_converted(item, kind, depth + 1) for item in value]
    return tuple(items) if str(depth) in kind else items
