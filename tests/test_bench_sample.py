"""`phi-jax bench sample`: the workload is the same for both sides, and the result says what a reader has to know."""

import json

import pytest
from running import phi_jax

from phi_jax.bench.case import SHAPES
from phi_jax.bench.sample import SampleCase

TINY = ["--shape", "tiny", "--slots", "2", "4", "--problems", "2", "--samples-per-problem", "4", "--prompt-tokens",
        "9", "--max-new-tokens", "20"]  # fmt: skip


def case(**changed):
    fields = {
        "name": "tiny", "model": SHAPES["tiny"], "slots": 4, "problems": 3, "samples_per_problem": 500,
        "prompt_tokens": 9, "max_new_tokens": 192, "temperature": 0.2, "top_p": 0.95,
    }  # fmt: skip
    return SampleCase(**{**fields, **changed})


def test_lengths_are_those_that_are_said():
    lengths = case().lengths()
    assert lengths == case().lengths()
    assert [len(row) for row in lengths] == [500] * 3
    flat = [length for row in lengths for length in row]
    assert min(flat) >= 1
    assert max(flat) == 192
    assert 54 < sum(flat) / len(flat) < 68  # geometric of mean 64, cut at three times that: 61
    assert all(0 <= token < SHAPES["tiny"]["vocab_size"] for prompt in case().prompts() for token in prompt)


def test_the_command_measures_each_number_of_slots(tmp_path):
    done = phi_jax("bench", "sample", *TINY, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == json.loads(done.stdout)
    assert [found["slots"] for found in result["steady"]] == [2, 4]
    for found in result["steady"]:
        assert found["tokens_per_second"] == pytest.approx(found["slots"] / found["step_seconds"])
        assert 0 < found["share_of_ceiling"] < 1
        assert found["ceiling_tokens_per_second"] > found["tokens_per_second"]
    assert result["case"]["slots"] == 4
    ((ours,),) = [[pair["ours"] for pair in result["rounds"]]]
    assert ours["tokens"] == result["case"]["tokens"] == sum(map(sum, case(
        slots=4, problems=2, samples_per_problem=4, max_new_tokens=20
    ).lengths()))  # fmt: skip
    assert "4 slots: " in done.stderr


@pytest.mark.peers
def test_beside_transformers(tmp_path):
    pytest.importorskip("transformers", reason="needs pip install '.[peers]'")
    done = phi_jax("bench", "sample", *TINY, "--peer", "transformers", "--rounds", "2", "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert [set(pair) for pair in result["rounds"]] == [{"ours", "peer"}] * 2
    assert len({pair[side]["tokens"] for pair in result["rounds"] for side in pair}) == 1
    assert result["ratio"]["low"] <= result["ratio"]["median"] <= result["ratio"]["high"]
    assert "ours / transformers generate at 4 samples a problem" in done.stderr


def test_a_place_that_is_not_there_is_named(tmp_path):
    done = phi_jax("bench", "sample", *TINY, "--out", tmp_path / "no" / "out.json", check=False)
    assert done.returncode == 1
    assert "there is no directory" in done.stderr
