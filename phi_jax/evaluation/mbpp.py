"""MBPP (Austin et al. 2021) as it is evaluated here.

- The 500 problems of the test split, task_id 11 to 510; others in the file (few-shot prompts, validation, train) are
  not evaluated. sanitized-mbpp.json holds 257 of the 500.
- Zero-shot: the prompt is a docstring of the problem's text and the first of its tests, and nothing else, as in InCoder
  (Fried et al. 2022) and bigcode-evaluation-harness. Austin et al. show all tests, in a prompt with examples. The phi-1
  paper gives a score and is silent about its prompt.
- The completion is a whole function, with whatever stands beside it at top level, up to the first of
  bigcode-evaluation-harness's stop strings (stops.py, rule `mbpp`).
- It passes when all of test_list hold, with what test_setup_code or test_imports define.
"""

from __future__ import annotations

from typing import Any

from phi_jax.evaluation.jsonl import field_of, texts_of

TEST_SPLIT = range(11, 511)
PROTOCOL = (
    "MBPP is evaluated on its test split (task_id 11 to 510), zero-shot: a docstring of the text and the first test, "
    "then a whole function up to bigcode's stop strings"
)
_FORMAT = "MBPP"


def task_number(row: dict[str, Any], place: str) -> int:
    """The row's task_id. Raises UserError naming the place where it has none."""
    return field_of(row, "task_id", int, place, _FORMAT)


def problem_fields(row: dict[str, Any], place: str) -> dict[str, Any]:
    """What a Problem takes of a row of mbpp.jsonl or sanitized-mbpp.json.

    Raises UserError naming place and field for what is missing.
    """
    text = field_of(row, "text" if "text" in row else "prompt", str, place, _FORMAT)
    tests = texts_of(row, "test_list", place, _FORMAT)
    if "test_setup_code" in row:
        setup = field_of(row, "test_setup_code", str, place, _FORMAT)
    else:
        setup = "\n".join(texts_of(row, "test_imports", place, _FORMAT)) if "test_imports" in row else ""
    return {
        "task_id": task_id(task_number(row, place)),
        "prompt": f'"""\n{text}\n{tests[0] if tests else ""}\n"""\n',
        "tests": "\n".join(tests),
        "entry_point": None,
        "reference": field_of(row, "code", str, place, _FORMAT).replace("\r\n", "\n"),
        "setup": setup.replace("\r\n", "\n"),
        "stop": "mbpp",
    }


def task_id(number: int) -> str:
    """MBPP numbers its problems; beside those of other benchmarks a number says too little."""
    return f"MBPP/{number}"
