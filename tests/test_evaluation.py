"""Problems, the cut, and the built-in benchmark in the real sandbox."""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, phi_jax

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.completion import Request
from phi_jax.evaluation.evaluate import benchmarks
from phi_jax.evaluation.execution import Sample, execute, read_samples, shown_prompt
from phi_jax.evaluation.problems import Problem, load_problems
from phi_jax.evaluation.stops import STOP_STRINGS, body_indent, cut

PROMPT = 'def f(x):\n    """Doc."""\n'
DOC = '"""\nDoubles.\nassert f(1) == 2\n"""\n'


@pytest.fixture(scope="module")
def idioms():
    return load_problems("idioms")[1]


def verdicts(problems, completions):
    samples = [Sample(p.task_id, c, c) for p, c in zip(problems, completions, strict=True)]
    return [r["passed"] for r in execute(problems, samples, form="kept", sandbox="full", workers=2, wall_seconds=10)]


# --- The built-in benchmark ----------------------------------------------------------------------------------


def test_every_reference_passes(idioms):
    assert len(idioms) == 40
    assert all(verdicts(idioms, [p.reference for p in idioms]))


def test_references_survive_the_cut_and_the_stripped_form(idioms):
    completions = [
        cut(shown_prompt(p.prompt, "stripped"), "\n" + p.reference + "\nclass Next:\n    pass\n") for p in idioms
    ]
    samples = [Sample(p.task_id, c, c) for p, c in zip(idioms, completions, strict=True)]
    records = execute(idioms, samples, form="stripped", sandbox="full", workers=2, wall_seconds=10)
    assert all(r["passed"] for r in records)


def test_plausible_wrong_answers_fail(idioms):
    wrong = [json.loads(x)["completion"] for x in (ROOT / "tests/idioms_wrong.jsonl").read_text().splitlines()]
    for completions in (
        wrong,
        *([" " * body_indent(p.prompt) + body for p in idioms] for body in ("pass\n", "return 0\n")),
    ):
        passed = [p.task_id for p, ok in zip(idioms, verdicts(idioms, completions), strict=True) if ok]
        assert passed == []


# --- Files ---------------------------------------------------------------------------------------------------


def test_human_eval_is_read_and_scored_from_its_own_file(shared_data, tmp_path):
    file = shared_data / "eval" / "HumanEval.jsonl.gz"
    name, problems = load_problems(str(file))
    assert (name, len(problems)) == ("HumanEval", 164)
    samples = [{"task_id": p.task_id, "completion": p.reference} for p in problems]
    samples[3]["completion"] = "    return None\n"
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    done = phi_jax("score", "--samples", tmp_path / "s.jsonl", "--problems", file, "--out", tmp_path / "out")
    assert "HumanEval pass@1 0.994 [0.966, 0.999]" in done.stdout
    results = [json.loads(x) for x in (tmp_path / "out" / "samples.jsonl_results.jsonl").read_text().splitlines()]
    assert set(results[0]) == {"task_id", "completion", "result", "passed"}
    assert [r["task_id"] for r in results if not r["passed"]] == ["HumanEval/3"]
    score = json.loads((tmp_path / "out" / "scores.json").read_text())[0]
    assert (score["problems"], score["samples"]) == (164, 164)
    assert score["value"] == 163 / 164


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("not json\n", "p.jsonl:1: not JSON"),
        ("\n[1]\n", "p.jsonl:2: not a JSON object"),
        ('{"task_id": "a", "prompt": "", "test": ""}\n', "p.jsonl:1: no text in field 'entry_point'"),
        ('{"task_id": "a", "prompt": "", "test": "", "entry_point": "f"}\n' * 2, "p.jsonl:2: task_id a appears twice"),
        ("", "holds no problem"),
    ],
)
def test_problem_files_name_what_is_wrong(tmp_path, lines, message):
    (tmp_path / "p.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message):
        load_problems(str(tmp_path / "p.jsonl"))


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_file_is_one_line_or_reads_as_before(data):
    """Flipped bytes and cut ends, packed or not, of problems and of samples."""
    row = {"task_id": "t/0", "prompt": "def f():\n", "test": "", "entry_point": "f", "completion": "    pass\n"}
    whole = "".join(json.dumps({**row, "task_id": f"t/{n}"}) + "\n" for n in range(3)).encode()
    packed = data.draw(st.booleans())
    content = bytearray(gzip.compress(whole, mtime=0) if packed else whole)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=40)):
        content[place] ^= data.draw(st.integers(1, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / ("p.jsonl.gz" if packed else "p.jsonl")
        path.write_bytes(content)
        for read in (lambda: load_problems(str(path)), lambda: read_samples(path, [])):
            said = complaint_of(read)
            assert said == "" or (str(path) in said and "\n" not in said)


def complaint_of(read):
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


def test_a_sandbox_that_cannot_work_is_an_error_and_no_verdict(tmp_path):
    """Too few open files for the sandbox's own pipes: every right program would count as wrong."""
    samples = tmp_path / "s.jsonl"
    rows = [{"task_id": p.task_id, "completion": p.reference} for p in load_problems("idioms")[1]]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "phi_jax.cli", "score", "--samples", str(samples), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -Sn 100; exec "$@"', "bash", *command], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode == 0:  # the sandbox has raised the limit itself
        assert "pass@1 1.000" in done.stdout
    else:
        assert (done.returncode, "sandbox" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
        assert not (tmp_path / "out").exists()


def test_samples_of_a_problem_are_numbered_in_their_order(tmp_path):
    rows = [{"task_id": "a", "completion": c} for c in "xyz"]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_samples(tmp_path / "s.jsonl", [Problem("a", "def f():\n", "", "f")])
    assert [(s.sample, s.completion) for s in found] == [(0, "x"), (1, "y"), (2, "z")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"task_id": "idioms/0"}\n', "s.jsonl:1: needs text in task_id"),
        ('{"task_id": "idioms/99", "completion": ""}\n', "s.jsonl:1: task_id idioms/99 is not in the benchmark"),
        (
            '{"task_id": "idioms/0", "completion": ""}\n',
            "no sample for 39 of 40 problems, idioms/1 the first; pass@k needs one for each",
        ),
    ],
)
def test_sample_files_name_what_is_wrong(tmp_path, idioms, lines, message):
    (tmp_path / "s.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message):
        read_samples(tmp_path / "s.jsonl", idioms)


# --- The cut -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "completion", "kept"),
    [
        (PROMPT, "    return x\n\n\ndef g():\n    pass\n", "    return x\n\n\n"),
        (PROMPT, "    return x\nprint(f(1))", "    return x\n"),
        (PROMPT, "    if x:\n        return 1\n    return 2", "    if x:\n        return 1\n    return 2"),
        (PROMPT.rstrip(), "\n    return x\nclass A:", "\n    return x\n"),
        (PROMPT.rstrip(), " + 1\n    return x", " + 1\n    return x"),
        ("class A:\n    def f(self):\n", "        return 1\n\n    def g(self):\n", "        return 1\n\n"),
        ("class A:\n    def f(self):", "\n        return 1\n    x = 2", "\n        return 1\n"),
        (PROMPT, "\treturn x\n", "\treturn x\n"),
        (PROMPT, "return x", ""),
    ],
)
def test_the_cut_is_at_the_first_dedent(prompt, completion, kept):
    assert cut(prompt, completion) == kept


# Texts that stop strings are made of, so that whole ones and their beginnings come up.
PIECES = st.sampled_from(
    [*{s for strings in STOP_STRINGS.values() for s in strings}, "\n", " ", "    ", "x", ":", "\t"]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@given(st.sampled_from(sorted(STOP_STRINGS)), TEXTS, TEXTS, st.lists(st.integers(0, 80), max_size=4))
def test_a_cut_is_a_prefix_and_stays_when_more_is_decoded(rule, prompt, completion, places):
    """Whatever pieces it is decoded in: a stop may begin in one token and end in another."""
    request = Request("t", 0, "greedy", prompt, rule)
    kept = cut(prompt, completion, rule)
    assert completion.startswith(kept)
    for place in places:
        before = completion[:place]
        if request.has_stopped(before):
            assert cut(prompt, before, rule) == kept
    assert request.has_stopped(completion) == (kept != completion)


@given(st.sampled_from([rule for rule in STOP_STRINGS if STOP_STRINGS[rule]]), TEXTS, st.sampled_from(["x", "x\n"]))
def test_a_completion_ends_before_the_first_stop_string(rule, completion, prompt):
    own = "\n" if completion.startswith("\n") and prompt == "x" else ""  # the prompt's newline, which was stripped
    kept = cut(prompt, completion, rule)[len(own) :]
    rest = completion[len(own) :]
    assert not any(stop in kept for stop in STOP_STRINGS[rule])
    assert kept == rest or rest[len(kept) :].startswith(STOP_STRINGS[rule])


@pytest.mark.parametrize(
    ("prompt", "completion", "rule", "kept"),
    [
        (PROMPT, "    return x\n\n\ndef g():", "human-eval", "    return x\n\n"),
        (PROMPT, "    return x\nfor y in z:\n    pass", "human-eval", "    return x\nfor y in z:\n    pass"),
        (DOC, "def f(x):\n    return g(x)\n\ndef g(x):\n    return x\nprint(f(1))", "mbpp",
         "def f(x):\n    return g(x)\n\ndef g(x):\n    return x"),
        (DOC, "class Pair:\n    pass\n\nclass Other:", "mbpp", "class Pair:\n    pass\n"),
        (DOC.rstrip(), "\nclass Pair:\n    pass\n\nclass Other:", "mbpp", "\nclass Pair:\n    pass\n"),
        (DOC.rstrip(), "\n\nassert f(1)", "mbpp", "\n"),
    ],
)  # fmt: skip
def test_the_cut_of_other_rules(prompt, completion, rule, kept):
    assert cut(prompt, completion, rule) == kept


@pytest.mark.parametrize("name", ["one", "idioms", "parts"])
def test_two_benchmarks_of_one_name_are_refused(tmp_path, name):
    """Both would be completed into the same place, where the second would find the first's completions."""
    row = json.dumps({"task_id": "t/0", "prompt": "def f():\n", "test": "def check(f): pass", "entry_point": "f"})
    files = [tmp_path / "one.jsonl", tmp_path / "other" / f"{name}.jsonl"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(row + "\n")
    rules = Config({"benchmark": str(files[0]), "further_benchmarks": ["idioms", str(files[1])], "max_problems": 0})
    with pytest.raises(UserError, match=f"the name {name} is taken"):
        benchmarks(rules, None)
    rules = Config({"benchmark": str(files[0]), "further_benchmarks": ["idioms"], "max_problems": 1})
    assert [(name, len(problems)) for name, problems in benchmarks(rules, None)] == [("one", 1), ("idioms", 1)]
