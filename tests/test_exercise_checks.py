# ruff: noqa: E501 (exercises as they are)
"""Exercises that an LLM could write: what is set aside and why, tests that notice nothing, and who attacks the check."""

import random
from collections import Counter

import pytest

from phi_jax.sandbox import support
from phi_jax.synthesis.grammar import catalogue, grammar_texts
from phi_jax.synthesis.llm.exercises import Written, check_exercises
from phi_jax.synthesis.llm.run_checks import as_fault

SANDBOX = "none" if support().missing else "full"

CODE = '''\
def total(numbers, least):
    """Return the sum of the numbers above `least`.

    >>> total([1, 2, 3], 1)
    5
    """
    result = 0
    for number in numbers:
        if number > least:
            result += number
    return result
'''
TESTS = [
    "assert total([1, 2, 3], 1) == 5",
    "assert total([], 0) == 0",
    "assert total([4, 5, -1], 4) == 5",
    "assert total([7, 8], 0) == 15",
]


def code(body, *, name="total", head="", examples=""):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f'{head}def {name}(numbers, least):\n    """Add up.\n\n{examples}    """\n{lines}'


RIGHT = {
    "the exercise": (CODE, TESTS, "total"),
    "no name is asked for": (CODE, TESTS, None),
    "imports, constants and helpers": (
        "import math\nfrom functools import lru_cache\n\nLIMIT = 3\n\n@lru_cache\ndef above(number, least):\n    return number > least\n\n\n"
        + CODE.replace("number > least:", "above(number, least):"), TESTS, "total",
    ),
    "a helper behind it": (CODE + "\n\ndef unused(x):\n    return x + 1\n", TESTS, None),
    "tests of several lines": (
        'def clear(items):\n    """Take all but the first away, in place."""\n    del items[1:]\n',
        ["a = [1, 2]\nclear(a)\nassert a == [1]", "a = [3]\nassert clear(a) is None and a == [3]", "a = [2, 3, 4]\nclear(a)\nassert a == [2]"], "clear",
    ),
    "an error is tested": (
        'def root(x):\n    """Return the root.\n\n    >>> root(-1)\n    Traceback (most recent call last):\n        ...\n    ValueError: below 0: -1\n    """\n'
        "    if x < 0:\n        raise ValueError(f'below 0: {x}')\n    return x ** 0.5\n",
        ["assert root(4) == 2", "assert root(0) == 0", "try:\n    root(-1)\n    assert False\nexcept ValueError:\n    pass", "assert abs(root(2) - 1.41421) < 1e-3"], "root",
    ),
    "it calls itself": (
        'def fact(n):\n    """Return n!."""\n    return 1 if n < 2 else n * fact(n - 1)\n',
        ["assert fact(0) == 1", "assert fact(3) == 6", "assert fact(5) == 120"], "fact",
    ),
    "mutants that never end": (
        'def digits(n):\n    """Count the digits."""\n    count = 1\n    while n >= 10:\n        n //= 10\n        count += 1\n    return count\n',
        ["assert digits(7) == 1", "assert digits(10) == 2", "assert digits(12345) == 5"], "digits",
    ),
    "a dataclass": (
        'from dataclasses import dataclass\n\n@dataclass\nclass Point:\n    x: int\n\n\ndef moved(p, by):\n    """Return p moved."""\n    return Point(p.x + by)\n',
        ["assert moved(Point(1), 2) == Point(3)", "assert moved(Point(0), -2) == Point(-2)", "assert moved(Point(4), 0).x == 4"], "moved",
    ),
}  # fmt: skip
# (code, tests, name, reason)
WRONG = {
    "the order of a set": (
        'def unique(words):\n    """Return each word once."""\n    return list(set(words))\n',
        ["assert unique(['pear', 'fig', 'plum', 'kiwi', 'fig']) == ['pear', 'kiwi', 'plum', 'fig']", "assert unique([]) == []", "assert unique(['a', 'a']) == ['a']"], "unique",
        "with sets in another order: test 1 fails: AssertionError",
    ),
    "another name": (CODE, TESTS, "sum_above", "the code defines sum_above 0 times, not once"),
    "twice": (CODE + CODE, TESTS, "total", "the code defines total 2 times, not once"),
    "nobody's tests": (CODE, [f"assert sum([{i}]) == {i}" for i in range(3)], None, "the code defines None 0 times, not once"),
    "no docstring": ("def total(numbers, least):\n    return 5\n", TESTS, "total", "total has no docstring"),
    "a script": (CODE + "\nprint(total([1], 0))\n", TESTS, "total", "the code's line 13 is neither an import nor a definition"),
    "does not parse": (CODE.replace("for ", "fro "), TESTS, "total", "invalid syntax (the code, line 8)"),
    "a null byte": (CODE + "\0", TESTS, "total", "source code string cannot contain null bytes"),
    "does not run": ("import nothing_like_it\n" + CODE, TESTS, "total", "the code fails: ModuleNotFoundError: No module named 'nothing_like_it'"),
    "does not compile": (code("return 5\nglobal least"), TESTS, "total", "the code fails: SyntaxError: name 'least' is parameter and global (<text>, line 6)"),
    "a wrong example": (CODE.replace("    5\n", "    6\n"), TESTS, "total", "the code: the example 'total([1, 2, 3], 1)' gives '5', not '6'"),
    "an endless example": (CODE.replace(">>> total([1, 2, 3], 1)\n    5", ">>> while total([], 0) == 0: pass\n    5"), TESTS, "total", "the code: the example 'while total([], 0) == 0: pass' fails: it takes too long"),
    "half a surrogate pair": (CODE + "# \ud800\n", TESTS, "total", "'utf-8' codec can't encode character '\\ud800' in position 240: surrogates not allowed"),
    "no body": (code("pass"), TESTS, "total", "test 1 fails: AssertionError"),
    "two tests": (CODE, [*TESTS[:2], TESTS[0]], "total", "it has 2 different tests, fewer than 3"),
    "a test that does not parse": (CODE, [*TESTS, "assert total(["], "total", "'[' was never closed (test 5, line 1)"),
    "a test that fails": (CODE, [*TESTS, "assert total([1], 0) == 2"], "total", "test 5 fails: AssertionError"),
    "a test that raises": (CODE, [*TESTS, "assert total(None, 0)"], "total", "test 5 fails: TypeError: 'NoneType' object is not iterable"),
    "luck": (
        code("return random.random() if least > 3 else sum(numbers)", head="import random\n\n"),
        ["assert total([1], 0) == 1", "assert total([1, 4], 0) == 5", "assert total([], 4) < 0.8"], "total",
        "with sets in another order: test 3 fails: AssertionError",
    ),
    "endless": (code("while True:\n    pass"), TESTS, "total", "test 1 fails: it takes too long"),
    "reads input": (code("return int(input())"), TESTS, "total", "test 1 fails: RuntimeError: input(): lost sys.stdin"),
    "an address": (code("raise KeyError(object())"), TESTS, "total", "test 1 fails: KeyError: <object object at 0x...>"),
}  # fmt: skip
VACUOUS = {
    "itself": [f"assert total([{i}], 0) == total([{i}], 0)" for i in range(3)],
    "types": [f"assert isinstance(total([{i}], 0), int)" for i in range(3)],
    "not None": [f"assert total([{i}], 0) is not None" for i in range(3)],
    "one trivial case": [f"assert total([], {i}) == 0" for i in range(4)],
    "one case in many words": ["assert total([4], 0) == 4", "assert 4 == total([4], 0)", "assert total([4], 0) in (4, 5)"],
    "it runs": [f"total([{i}], 0)\nassert True" for i in range(3)],
    "what it is given": [f"assert len(total.__name__) == {i + 5} or total" for i in range(3)],
}  # fmt: skip
HOSTILE = {
    "ends the process": (code("import os\nos._exit(0)"), TESTS, "total", "the candidate's process ended (exit status 0)"),
    "leaves": (code("raise SystemExit(0)"), TESTS, "total", "test 1 fails: SystemExit: 0"),
    "breaks its process": (code("import ctypes\nctypes.string_at(0)"), TESTS, "total", "the candidate's process ended (signal SIGSEGV)"),
    "eats memory": (code("x = []\nwhile True:\n    x.append(bytes(10 ** 8))"), TESTS, "total", "test 1 fails: MemoryError"),
    "prints verdicts": (code("import os\nfor fd in (1, 2, 3, 4):\n    try:\n        os.write(fd, b'[True] * 10')\n    except OSError:\n        pass\nreturn 1"), TESTS, "total", None),
    "says that it is right": (code("import candidate, sys\nfor module in (candidate, sys._getframe(1)):\n    module.report = module.exercise = lambda *_: ''"), TESTS, "total", None),
    "says nothing": (code("import sys\nframe = sys._getframe()\nwhile 'exercise' not in frame.f_globals:\n    frame = frame.f_back\nframe.f_globals['_fault'] = lambda error: 1 / 0\nraise KeyError"), TESTS, "total", None),
    "a test ends the process": (CODE, [*TESTS, "import os\nos._exit(0)\nassert total"], "total", "the candidate's process ended (exit status 0)"),
}  # fmt: skip


def checked(cases):
    written = [Written(code, list(tests), name) for code, tests, name, *_ in cases]
    return check_exercises(written, "exercises", sandbox=SANDBOX, workers=2)


@pytest.fixture(scope="module")
def verdicts():
    """Of all the exercises above, hostile ones between the others."""
    cases = {}
    for name, group in (("right", RIGHT), ("hostile", HOSTILE), ("wrong", WRONG)):
        cases |= {(name, key): case for key, case in group.items()}
    cases |= {("vacuous", key): (CODE, tests, "total") for key, tests in VACUOUS.items()}
    return dict(zip(cases, checked(list(cases.values())), strict=True))


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_kept(verdicts, name):
    assert verdicts["right", name] is None


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_has_its_reason(verdicts, name):
    assert verdicts["wrong", name].reason == WRONG[name][3]


@pytest.mark.parametrize("name", VACUOUS)
def test_tests_that_notice_nothing(verdicts, name):
    assert verdicts["vacuous", name].code == "weak_tests"
    assert verdicts["vacuous", name].reason.startswith("the tests pass with a function that ")


@pytest.mark.parametrize("name", HOSTILE)
def test_who_attacks_is_set_aside_alone(verdicts, name):
    found = verdicts["hostile", name]
    assert "\n" not in found.reason
    assert HOSTILE[name][3] in (None, found.reason)


@pytest.mark.parametrize(
    "said", ["passed", 1, [], [True] * 10, ("no code", "x"), ("too_slow", 1), ("too_slow", "x", "y")]
)
def test_what_no_check_says_is_tampering(said):
    """The text shares the process that says it."""
    assert as_fault(said).reason == "it tampers with its check"


def test_a_reason_is_one_line_that_can_be_printed():
    assert as_fault(("wrong_output", "a\nb\ud800")) == ("wrong_output", "a b\\ud800")
    assert as_fault(None) is None


def test_tests_of_one_branch_notice_too_little():
    source = (
        'def fee(weight):\n    """Return the fee."""\n    if weight > 20:\n        return weight * 3 - 2\n'
        "    if weight > 10:\n        return weight * 2 + 1\n    return weight + 5\n"
    )
    one, all_three = (
        [f"assert fee({weight}) == {fee}" for weight, fee in cases]
        for cases in (((1, 6), (2, 7), (3, 8)), ((1, 6), (15, 31), (30, 88)))
    )
    reason, none = checked([(source, one, "fee"), (source, all_three, "fee")])
    assert reason.reason.startswith("the tests notice only ")
    assert none is None


def test_a_mutant_that_ends_its_process_is_noticed_and_the_others_are_judged():
    """The lines that end it are reached by mutants alone."""
    ends = CODE.replace(
        "    return result\n",
        "    if result < len(numbers) * -900:\n        import os\n        os._exit(0)\n    return result\n",
    )
    weak = ends.replace(
        "    result = 0\n", "    if least > 50:\n        return 1 - 2 * 3 + 4 * least - 5\n    result = 0\n"
    )
    kept, aside = checked([(ends, TESTS, "total"), (weak, TESTS, "total")])
    assert kept is None
    assert aside.reason.startswith("the tests notice only ")


def honest(known, number):
    """An exercise of the grammar with five of the fixed inputs as its tests."""
    text = grammar_texts.exercise(known, number)
    cases = [*zip(catalogue.fixed_inputs(known.behaviour.signature), known.outputs, strict=True)]
    chosen = random.Random(known.digest).sample(cases, 5)
    calls = [(f"{text.entry_point}({', '.join(map(repr, arguments))})", output) for arguments, output in chosen]
    return text, calls


def test_the_grammars_exercises_pass_with_honest_tests_and_not_with_others():
    """A sample of tests/acceptance/test_vacuous_tests.py."""
    known = catalogue.held_out(catalogue.behaviours(120), 10)[0][::120]
    good, bad = [], []
    for text, calls in (honest(k, 0) for k in known):
        good.append((text.code, [f"assert {call} == {output}" for call, output in calls], text.entry_point))
        bad.append((text.code, [f"assert {call} == {call}" for call, _ in calls], text.entry_point))
    found = checked([*good, *bad])
    counts = Counter(reason is None for reason in found[: len(good)])
    assert counts[False] <= 0.05 * len(good)
    assert None not in found[len(good) :]
