"""EvalPlus's comparison of a candidate with the reference solution (evalplus 0.3.1: eval/__init__.py, data/mbpp.py).

evalplus.py has the judge execute this source, and calls `check` there: the standard library only, nothing of phi_jax.
"""

import copy
import json
import math
from typing import Any

# Outputs that are compared as sets, and those of which only matters whether there is one.
_SETS = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
}  # fmt: skip
_NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}


def check(candidate: Any, tests: str) -> None:
    """Raises AssertionError naming group and number of the first input at which the candidate is wrong.

    tests: JSON, {"task_id", "entry_point", "reference": source, "atol", "inputs": {group: arguments of calls}}.
    """
    about = json.loads(tests)
    space: dict[str, Any] = {}
    exec(about["reference"], space)
    reference = space[about["entry_point"]]
    for group, rows in about["inputs"].items():
        atol = about["atol"]
        for number, row in enumerate(rows):
            arguments = arguments_of(about["task_id"], row)
            expected = reference(*copy.deepcopy(arguments))
            # As EvalPlus has it: from the first float that is expected on, the tolerance holds.
            if atol == 0 and _is_floats(expected):
                atol = 1e-6
            try:
                out = candidate(*copy.deepcopy(arguments))
                right = is_right(about["task_id"], about["entry_point"], arguments, out, expected, atol)
            except Exception as error:
                raise AssertionError(f"{group} input {number}: {type(error).__name__}: {error}") from None
            assert right, f"{group} input {number}: a wrong output"


def is_right(task_id: str, entry_point: str, arguments: list[Any], out: Any, expected: Any, atol: float) -> bool:
    """Whether EvalPlus takes `out` for right. Raises what comparing them raises."""
    if task_id.startswith("HumanEval/") and entry_point == "find_zero":  # any root will do
        return bool(abs(sum(c * math.pow(out, i) for i, c in enumerate(arguments[0]))) <= atol)
    right = bool(out == expected)
    if task_id.startswith("Mbpp/"):
        if entry_point == "are_equivalent":
            right = True
        elif entry_point == "sum_div":
            right = right or out == 0
        elif entry_point == "surface_Area":
            right = right or abs(out - _surface_area(*arguments)) <= atol
        elif entry_point == "digit_distance_nums":
            right = right or out == _digit_distance(*arguments)
        elif entry_point in _SETS:
            right = set(out) == set(expected)
        elif entry_point in _NOT_NONE:
            found = expected is not None
            right = out == found if isinstance(out, bool) else found == (out is not None)
    if right or atol == 0:
        return right
    return type(out) is type(expected) and _is_close(out, expected, atol)


def _is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _is_close(out: Any, expected: Any, atol: float) -> bool:
    """numpy.allclose(out, expected, rtol=1e-7, atol=atol), without its broadcasting."""
    if isinstance(expected, list | tuple):
        same_length = isinstance(out, list | tuple) and len(out) == len(expected)
        return same_length and all(_is_close(a, b, atol) for a, b in zip(out, expected, strict=True))
    if not (isinstance(out, int | float | complex) and isinstance(expected, int | float | complex)):
        return False
    return out == expected or abs(out - expected) <= atol + 1e-7 * abs(expected) < math.inf


def _surface_area(base_edge: float, height: float) -> int:
    """Mbpp/581, with the height taken as that of the apex above the base."""
    slant_height = math.sqrt((base_edge / 2) ** 2 + height**2)
    return round(base_edge**2 + 2 * base_edge * slant_height)


def _digit_distance(first: int, second: int) -> int:
    """Mbpp/558, with the shorter number padded by zeros."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)


# --- Arguments of MBPP+ that JSON does not have ----------------------------------------------------------------


def _tuples(value: Any) -> Any:
    return [tuple(item) for item in value]


def _tuple_of_tuples(value: Any) -> Any:
    return tuple(tuple(item) for item in value)


def _tuple_of_some_tuples(value: Any) -> Any:
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def _all_tuples(value: Any) -> Any:
    return tuple(map(_all_tuples, value)) if isinstance(value, list) else value


def _tuple_values(value: Any) -> Any:
    return {key: tuple(item) for key, item in value.items()}


def _sets(value: Any) -> Any:
    return [set(item) if isinstance(item, list) and item else {} for item in value]


# By the position of an argument; None: every one.
_CONVERSIONS = (
    (None, tuple, {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740,
                   744, 809}),
    (None, _tuples, {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}),
    (None, _tuple_of_tuples, {259, 401, 445}),
    (None, _tuple_of_some_tuples, {278}),
    (None, _all_tuples, {580, 615, 791}),
    (0, tuple, {250, 307, 405, 446, 617, 720, 763, 808}),
    (0, _tuples, {75, 413, 444, 753}),
    (0, _tuple_values, {722}),
    (0, _sets, {115}),
    (0, complex, {252}),
    (0, float, {124}),
    (1, complex, {124}),
    (1, tuple, {106, 750}),
)  # fmt: skip


def arguments_of(task_id: str, row: list[Any]) -> list[Any]:
    """The arguments that a row of inputs stands for."""
    name, _, number = task_id.partition("/")
    if name != "Mbpp":
        return row
    converted = list(row)
    for position, convert, tasks in _CONVERSIONS:
        if int(number) in tasks:
            for i in range(len(row)) if position is None else (position,):
                converted[i] = convert(converted[i])
    return converted
