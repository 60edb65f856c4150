"""The benches: what they measure, on tiny work; no figure of speed is asserted."""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llm_server import serving
from running import ROOT, phi_jax

from phi_jax.bench import sample_speed, train_speed
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.child import run_child
from phi_jax.sandbox import support

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import compare as comparing
from compare import Side, compare

BENCHMARKS = ROOT / "tests" / "benchmarks"
MICRO = ("--config", f"{ROOT}/configs/nano.py:size=micro")


# --- phi-jax bench ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "train.json"
    done = phi_jax("bench", "train", *MICRO, "--steps", "4", "--config.training.microbatches=2", "--out", out)
    assert json.loads(done.stdout) == json.loads(out.read_text())
    return json.loads(out.read_text())


def test_tokens_a_second_times_the_step_time_are_the_steps_tokens(trained):
    figures, model = trained["figures"], trained["case"]["model"]
    assert figures["tokens_per_step"] == trained["case"]["training"]["global_batch_size"] * model["max_seq_len"]
    assert figures["tokens_per_second"] * figures["step_seconds"] == pytest.approx(figures["tokens_per_step"])
    assert figures["step_seconds_p10"] <= figures["step_seconds"] <= figures["step_seconds_p90"]
    assert figures["parameters"] == num_params(PhiConfig(**model))
    assert figures["first_loss"] == pytest.approx(math.log(model["vocab_size"]), abs=0.1)
    assert figures["peak_memory_bytes"] > 4 * 4 * figures["parameters"] / 2
    assert (trained["case"]["training"]["microbatches"], trained["case"]["steps"]) == (2, 4)


def test_a_result_names_what_it_was_made_with_and_no_path(trained):
    assert set(trained["surroundings"]) == {"date", "versions", "machine", "xla_flags", "git_revision"}
    assert str(ROOT) not in json.dumps(trained)


def test_mfu_of_a_known_chip_in_bfloat16_and_else_none(trained):
    assert trained["figures"]["mfu_full_attention"] is trained["figures"]["mfu_causal_attention"] is None
    assert trained["figures"]["measured_peak_memory_bytes"] is None  # a CPU's allocator does not say
    config = PhiConfig(**{**trained["case"]["model"], "compute_dtype": "bfloat16"})
    for chips in (1, 8):
        # H200's datasheet: 989.5 bfloat16 TFLOP/s without sparsity.
        expected = 1e4 * training_flops_per_token(config) / 989.5e12 / chips
        assert train_speed.utilisation(config, 1e4, "NVIDIA H200", chips) == pytest.approx(expected)
        assert train_speed.utilisation(config, 1e4, "NVIDIA H200", chips, causal=True) < expected
    assert train_speed.utilisation(config, 1e4, "cpu", 1) is None
    float32 = PhiConfig(**trained["case"]["model"])
    assert train_speed.utilisation(float32, 1e4, "NVIDIA H200", 1) is None


def test_the_sampler_is_measured_at_each_number_of_slots(tmp_path):
    done = phi_jax("bench", "sample", *MICRO, "--slots", "2", "4", "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == json.loads(done.stdout)
    assert [found["slots"] for found in result["figures"]] == [2, 4]
    lengths = sample_speed.workload(1024, result)[1]
    for found in result["figures"]:
        assert found["tokens"] == sum(map(sum, lengths))
        assert found["tokens_per_second"] * found["seconds"] == pytest.approx(found["tokens"])


def test_lengths_are_those_that_are_said():
    work = {**sample_speed.work_of({"max_seq_len": 1024}), "problems": 3, "samples_per_problem": 500}
    prompts, lengths = sample_speed.workload(128, work)
    assert (prompts, lengths) == sample_speed.workload(128, work)
    assert [len(row) for row in lengths] == [500] * 3
    flat = [length for row in lengths for length in row]
    assert (min(flat) >= 1, max(flat)) == (True, 192)
    assert 54 < sum(flat) / len(flat) < 68  # geometric of mean 64, cut at three times that: 61
    assert all(0 <= token < 128 for prompt in prompts for token in prompt)


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        (train_speed, {"steps": 0}, "--steps 0: must be at least 1"),
        (train_speed, {"out": "nowhere/r.json"}, "there is no directory nowhere"),
        (sample_speed, {"slots": [0]}, "slots=0"),
    ],
)
def test_options_without_sense_are_one_line(module, options, said):
    options = argparse.Namespace(**{"steps": 1, "slots": [1], "out": None, **options})
    with pytest.raises(UserError, match=said):
        module.run(options, MICRO)


# --- A child process that answers by a file ---------------------------------------------------------------------------


@pytest.fixture
def helper(tmp_path):
    (tmp_path / "helper.py").write_text(
        "import os\nclass UserError(Exception): pass\n"
        "def double(x):\n    print('working')\n    return {'twice': 2 * x, 'seen': os.environ.get('SEEN')}\n"
        "def refuse(x): raise UserError(f'no {x}')\ndef fail(x): raise ValueError(f'bad {x}')\n"
        "def abort(x): os.abort()\n"
    )
    return lambda name: run_child(
        f"helper:{name}", {"x": 3}, environment={**os.environ, "PYTHONPATH": str(tmp_path), "SEEN": "yes"}
    )


def test_a_child_answers_whatever_it_prints(helper):
    assert helper("double") == {"twice": 6, "seen": "yes"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refuse", "^no 3$"),
        ("fail", r"helper:fail: ValueError: bad 3 \(exit code 1"),
        ("abort", r"helper:abort: .*exit code -6"),
    ],
)
def test_a_child_that_fails_is_one_line(helper, name, message):
    with pytest.raises(UserError, match=message) as error:
        helper(name)
    assert "\n" not in str(error.value)


# --- Beside peers -----------------------------------------------------------------------------------------------------


def test_sides_take_turns_and_disturbed_rounds_are_noted(monkeypatch):
    log, others = [], iter([0.0, 0.0, 0.0, 0.5, 0.0, 0.0])

    class Fake(Side):
        def run(self):
            log.append(self.function)
            speed = {"ours": 80.0, "peer": 100.0}[self.function] + 10 * len(log)
            return {"tokens_per_second": speed, "cpu_stolen_share": None, "cpu_others_share": next(others)}

    found = compare({name: Fake(name, {}) for name in ("ours", "peer")}, 3)
    assert log == ["ours", "peer", "peer", "ours", "ours", "peer"]
    ratios = [90 / 120, 120 / 130, 130 / 160]
    assert found["ratio"]["rounds"] == ratios
    assert (found["ratio"]["low"], found["ratio"]["median"], found["ratio"]["high"]) == tuple(sorted(ratios))
    assert found["ratio"]["undisturbed"] == [ratios[0], ratios[2]]


def test_what_went_on_beside_is_measured():
    before = {"stolen": 1.0, "used": 10.0, "own": 5.0, "all": 100.0}
    after = {"stolen": 3.0, "used": 20.0, "own": 11.0, "all": 120.0}
    assert comparing._cpu_shares(before, after) == {"cpu_stolen_share": 0.1, "cpu_others_share": 0.2}
    assert comparing._cpu_shares(before, before) == {"cpu_stolen_share": None, "cpu_others_share": None}


def script(name, *words, check=True):
    """The result of a script of tests/benchmarks, with --rounds 1."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--rounds", "1", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if not check:
        return done
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tokenizers_peer_encodes_the_same():
    result = script("tokenize_tokenizers.py", "--documents", ROOT / "phi_jax" / "tokens", "--bytes", 30_000)
    (pair,) = result["rounds"]
    assert pair["ours"]["ids"] == pair["peer"]["ids"]
    assert result["case"]["documents"] == "tokens"
    assert "holds no .py file" in script("tokenize_tokenizers.py", "--documents", "tests/golden", check=False).stderr


@pytest.mark.skipif(bool(support().missing), reason=f"needs Landlock and seccomp: {support().description}")
def test_the_sandbox_passes_all_references(tmp_path):
    result = script("sandbox_human_eval.py", "--programs", 41, "--workers", 2)
    assert result["case"]["programs"] == result["rounds"][0]["ours"]["passed"] == 80
    row = {"task_id": "x/0", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): pass"}
    Path(tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    done = script("sandbox_human_eval.py", "--problems", tmp_path / "p.jsonl", check=False)
    assert (done.returncode, "x/0 has no canonical_solution" in done.stderr) == (1, True)


def test_the_teacher_asks_every_request(tmp_path):
    with serving(instant=True) as server:
        words = ("--base-url", server.base_url, "--requests", 10, "--window", 4, "--directory", tmp_path)
        result = script("teacher_curator.py", *words)
    assert result["rounds"][0]["ours"]["replies"] == 10
    assert len(result["memory"]["peak_mib"]) == 2
    assert (list(tmp_path.iterdir()), "127.0.0.1" in json.dumps(result)) == ([], False)
    with serving(refuse="model") as server:
        words = ("--base-url", server.base_url, "--requests", 2, "--directory", tmp_path)
        assert script("teacher_curator.py", *words, check=False).returncode == 1


@pytest.mark.peers
def test_beside_transformers():
    pytest.importorskip("transformers", reason="needs transformers on torch: pip install -e '.[peers]'")
    result = script("train_transformers.py", *MICRO, "--steps", 2, "--attention", "sdpa")
    (pair,) = result["rounds"]
    assert pair["ours"]["parameters"] == pair["peer"]["parameters"]
    result = script("sample_generate.py", *MICRO, "--slots", 4)
    (pair,) = result["rounds"]
    assert pair["ours"]["tokens"] == pair["peer"]["tokens"]
