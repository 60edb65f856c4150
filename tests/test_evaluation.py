"""Problems, the cut, scores, and the built-in benchmark in the real sandbox."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, phi_jax

from phi_jax.errors import UserError
from phi_jax.evaluation.execution import Sample, execute, read_samples, shown_prompt
from phi_jax.evaluation.problems import load_problems
from phi_jax.evaluation.scores import pass_at_1_entry, pass_at_k, wilson_interval
from phi_jax.evaluation.stops import body_indent, cut

PROMPT = 'def f(x):\n    """Doc."""\n'


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


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(UserError, match="cannot be read"):
        load_problems(str(tmp_path / "p.jsonl.gz"))
    with pytest.raises(UserError, match="neither built in"):
        load_problems("human_eval")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"task_id": "idioms/0"}\n', "s.jsonl:1: needs text"),
        ('{"task_id": "idioms/99", "completion": ""}\n', "s.jsonl:1: task_id idioms/99 is not in the benchmark"),
        ('{"task_id": "idioms/0", "completion": ""}\n', "no sample for idioms/1 and 38 other problems"),
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


@given(st.text("ab :\n\t\"'()", max_size=60), st.text("ab :\n\t\"'()", max_size=60))
def test_a_cut_is_a_prefix_and_stays_when_more_is_decoded(prompt, completion):
    kept = cut(prompt, completion)
    assert completion.startswith(kept)
    if len(kept) < len(completion):
        assert cut(prompt, completion + "\nmore") == kept


def test_prompt_forms():
    assert shown_prompt("a\n\n", "stripped") == "a"
    assert shown_prompt("a\n", "kept") == "a\n"
    with pytest.raises(UserError, match="prompt_form='raw'"):
        shown_prompt("a", "raw")


# --- Scores --------------------------------------------------------------------------------------------------


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass(counts):
    from math import comb

    n, c, k = counts
    assert abs(pass_at_k(n, c, k) - (1 - comb(n - c, k) / comb(n, k))) < 1e-9


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_value_and_stays_in_range(counts):
    passed, n = counts
    low, high = wilson_interval(passed / n, n)
    assert 0 <= low <= passed / n <= high <= 1
    assert high > low


def test_wilson_against_published_figures():
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert [round(x, 4) for x in wilson_interval(81 / 263, 263)] == [0.2553, 0.3662]
    assert [round(x, 4) for x in wilson_interval(0, 20)] == [0.0, 0.1611]


def test_an_entry_counts_problems_as_trials():
    entry = pass_at_1_entry([[True, False], [True, True], [False, False]], model="m")
    assert (entry["value"], entry["problems"], entry["samples"], entry["model"]) == (0.5, 3, 6, "m")
    assert (entry["low"], entry["high"]) == wilson_interval(0.5, 3)


@pytest.mark.parametrize("arguments", [(0, 0, 1), (3, 4, 1), (3, 1, 4), (3, -1, 1)])
def test_counts_that_make_no_sense(arguments):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(*arguments)
