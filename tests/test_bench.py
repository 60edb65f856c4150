"""`phi-jax bench train`: what it measures, on tiny shapes; no figure of speed is asserted."""

import argparse
import dataclasses
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT

from phi_jax.bench import rounds, sweep, train
from phi_jax.bench.case import SHAPES, case_of_shape, random_batches
from phi_jax.bench.child import run_child
from phi_jax.bench.measure import _Compiles, utilisation
from phi_jax.bench.timing import ALONE_STEPS, WARMUP_STEPS, percentile, time_steps
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params
from phi_jax.model.phi import PhiConfig

# What the GPU image that is benched on lacks. Absent for the whole run, whoever asks for them.
FORBIDDEN = (
    "ml_collections", "orbax", "grain", "etils", "tqdm", "tensorboardX", "tensorflow_datasets", "torch", "transformers",
)  # fmt: skip


def bench(*arguments):
    """`python -m phi_jax.bench.train` where FORBIDDEN cannot be imported."""
    code = (
        f"import runpy, sys\nsys.modules.update(dict.fromkeys({FORBIDDEN!r}))\n"
        f"sys.argv[1:] = {list(map(str, arguments))!r}\n"
        "runpy.run_module('phi_jax.bench.train', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The result of a tiny run on two CPU devices, from a process without the forbidden modules."""
    out = tmp_path_factory.mktemp("bench") / "tiny.json"
    done = bench("--shape", "tiny", "--steps", 4, "--microbatches", 2, "--cpu-devices", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())
    return json.loads(out.read_text())


def options_of(*arguments):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(list(arguments))


# --- A run from end to end -----------------------------------------------------------------------------------


def test_tokens_a_second_times_the_step_time_are_the_steps_tokens(tiny):
    figures = tiny["figures"]
    assert figures["tokens_per_step"] == 4 * 2 * SHAPES["tiny"]["max_seq_len"]
    for rate, seconds in (("", ""), ("_p10", "_p90"), ("_p90", "_p10")):
        product = figures[f"tokens_per_second{rate}"] * figures[f"step_seconds{seconds}"]
        assert product == pytest.approx(figures["tokens_per_step"])
    assert figures["step_seconds_p10"] <= figures["step_seconds"] <= figures["step_seconds_p90"]
    gap = figures["step_seconds"] - figures["step_alone_seconds"]
    assert figures["host_gap_seconds"] == pytest.approx(gap)
    assert 0 < figures["dispatch_seconds"] <= figures["step_alone_seconds"]


def test_a_result_names_what_it_was_made_with(tiny):
    assert set(tiny["surroundings"]) == {"date", "versions", "processor", "cores", "environment", "git_revision"}
    assert tiny["surroundings"]["versions"]["jax"] == jax.__version__
    assert tiny["surroundings"]["environment"]["JAX_PLATFORMS"] == "cpu"
    assert "/" not in "".join(tiny["surroundings"]["environment"].values())
    assert tiny["case"]["mesh"] == [2, 1, 1]
    assert tiny["case"]["model"]["attention"] == "xla"
    figures = tiny["figures"]
    assert (figures["platform"], figures["device_kind"], figures["devices"]) == ("cpu", "cpu", 2)
    assert figures["parameters"] == num_params(PhiConfig(**SHAPES["tiny"]))
    assert figures["peak_memory_bytes"] > 4 * 4 * figures["parameters"] / 2
    assert figures["peak_memory_source"] == "compiled.memory_analysis(), one device"


def test_the_step_is_compiled_once_and_starts_at_the_loss_of_fresh_weights(tiny):
    figures = tiny["figures"]
    assert figures["compiles"] == 1
    assert figures["compile_seconds"] > 0
    assert figures["first_loss"] == pytest.approx(math.log(SHAPES["tiny"]["vocab_size"]), abs=0.1)
    assert math.isfinite(figures["last_loss"])


def test_a_chip_that_is_not_known_has_no_mfu(tiny):
    assert tiny["figures"]["mfu_full_attention"] is None
    assert tiny["figures"]["mfu_causal_attention"] is None
    assert tiny["figures"]["flops_per_token_full_attention"] > tiny["figures"]["flops_per_token_causal_attention"] > 0


def test_a_known_chip_has_both_mfus_in_bfloat16_only():
    config = PhiConfig(**SHAPES["phi_1"], compute_dtype="bfloat16")
    one = utilisation(config, 1e4, "NVIDIA H200", 1)
    # H200's datasheet: 989.5 bfloat16 TFLOP/s without sparsity.
    for convention in ("full_attention", "causal_attention"):
        expected = 1e4 * one[f"flops_per_token_{convention}"] / 989.5e12
        assert one[f"mfu_{convention}"] == pytest.approx(expected)
        assert utilisation(config, 1e4, "NVIDIA H200", 8)[f"mfu_{convention}"] == pytest.approx(expected / 8)
    assert one["mfu_full_attention"] > one["mfu_causal_attention"]
    float32 = dataclasses.replace(config, compute_dtype="float32")
    assert utilisation(float32, 1e4, "NVIDIA H200", 1)["mfu_full_attention"] is None


def test_a_second_compile_is_counted():
    def quadruple(x):
        return 4 * x

    compiles = _Compiles("quadruple")
    double = jax.jit(quadruple)
    assert compiles.count == 0
    double(np.ones(3))
    double(np.ones(3))
    assert compiles.count == 1
    double(np.ones(5))
    assert compiles.count == 2


# --- Timing --------------------------------------------------------------------------------------------------


def test_a_loss_is_read_after_the_next_step_was_dispatched():
    log = []

    def dispatch(i):
        log.append(("dispatch", i))
        return i

    def read(i):
        log.append(("read", i))
        return float(i)

    figures = time_steps(dispatch, read, 3)
    last = WARMUP_STEPS + 3 - 1
    for i in range(last):
        assert log.index(("dispatch", i + 1)) < log.index(("read", i))
    assert log.index(("read", last)) < log.index(("dispatch", last + 1))
    alone = log[log.index(("dispatch", last + 1)) :]
    assert alone == [(what, last + 1 + i) for i in range(ALONE_STEPS) for what in ("dispatch", "read")]
    assert (figures["first_loss"], figures["last_loss"]) == (0.0, float(last))


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(ArithmeticError, match="not finite"):
        time_steps(lambda i: i, lambda i: math.nan if i == 4 else 1.0, 3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_are_numpys(values, share):
    assert percentile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-6)


# --- Options -------------------------------------------------------------------------------------------------


def test_options_change_the_shapes_own_choices():
    options = options_of(
        "--shape", "phi_1_small", "--microbatch", "2", "--microbatches", "3", "--attention", "cudnn", "--remat", "dots",
        "--unroll", "5", "--dtype", "float32", "--loss-chunk", "64", "--steps", "7", "--mesh", "1,2,1",
        "--cpu-devices", "2",
    )  # fmt: skip
    case = train._chosen(options, [])
    choices = {"attention": "cudnn", "remat": "dots", "scan_unroll": 5, "compute_dtype": "float32"}
    assert case.model == {**SHAPES["phi_1_small"], **choices}
    assert (case.batch_size, case.loss_chunk, case.steps, case.mesh, case.cpu_devices) == (6, 64, 7, (1, 2, 1), 2)


def test_the_built_in_sizes_are_the_papers():
    assert num_params(PhiConfig(**SHAPES["phi_1"])) == 1_418_270_720
    assert num_params(PhiConfig(**SHAPES["phi_1_small"])) == 356_794_368


def test_a_config_is_measured_as_it_trains():
    options = options_of("--steps", "2")
    case = train._chosen(options, ["--config", f"{ROOT}/configs/nano.py", "--config.training.microbatches=2"])
    assert {name: case.model[name] for name in SHAPES["nano"]} == SHAPES["nano"]
    assert (case.name, case.microbatch, case.microbatches, case.batch_size) == ("nano", 2, 2, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "--peer", "transformers"], "--sweep and --peer"),
        (["--config", "configs/nano.py", "--shape", "nano"], "--config and --shape"),
        (["--out", "no/such/directory/x.json"], "there is no directory"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(arguments, words):
    with pytest.raises(UserError, match=words) as error:
        train.run(options_of(*arguments))
    assert "\n" not in str(error.value)


def test_a_batch_that_the_mesh_cannot_cut_is_one_line():
    done = bench("--shape", "tiny", "--cpu-devices", 2, "--microbatch", 3, "--steps", 1)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be cut" in done.stderr


# --- Sweep ---------------------------------------------------------------------------------------------------


def test_an_abort_is_a_row_that_says_why(tmp_path):
    out = tmp_path / "rows.jsonl"
    case = case_of_shape("tiny", steps=1)
    unknown = sweep.Choice("xla", "none", 1, 4, "--xla_no_such_flag=1")
    rows = sweep.measure_all(case, [unknown], out)
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    assert "xla_no_such_flag" in rows[0]["error"]
    assert "xla_no_such_flag" in sweep.table(rows)


def test_a_sweep_tries_flags_on_the_fastest_choice_and_ends_best_first(tmp_path, monkeypatch):
    speeds = {}

    def child(module, case, *, timeout, environment):
        if case.model["remat"] == "dots":
            raise UserError("out of memory")
        speed = 100.0 + len(speeds)
        speeds[speed] = environment["XLA_FLAGS"]
        figures = {"tokens_per_second": speed, "mfu_full_attention": 0.5, "peak_memory_bytes": 2**30}
        return {"figures": {**figures, "compile_seconds": 1.0}, "attention": case.model["attention"]}

    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(sweep, "run_child", child)
    case = case_of_shape("phi_1", steps=1)
    rows = sweep.sweep(case, tmp_path / "rows.jsonl")
    assert len(rows) == len(sweep.choices(case)) + len(sweep.FLAG_SETS)
    assert "out of memory" in rows[-1]["error"]
    ordered = [row["figures"]["tokens_per_second"] for row in rows[:-1]]
    assert ordered == sorted(ordered, reverse=True)
    with_flags = [row for row in rows[:-1] if row["choice"]["flags"]]
    assert {row["choice"]["flags"] for row in with_flags} == set(sweep.FLAG_SETS)
    assert {row["choice"]["attention"] for row in with_flags} == {sweep.choices(case)[-1].attention}
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows


def test_a_child_that_fails_says_its_last_line():
    case = dataclasses.replace(case_of_shape("tiny", steps=1), model={**SHAPES["tiny"], "remat": "half"})
    with pytest.raises(UserError, match=r"config\.model\.remat='half'.*exit code 1"):
        run_child("phi_jax.bench.measure", case)


# --- The peer ------------------------------------------------------------------------------------------------


@pytest.mark.peers
def test_the_peer_has_our_parameters_and_the_ratio_its_rounds_behind_it(monkeypatch):
    pytest.importorskip("transformers", reason="needs transformers on torch: pip install -e '.[peers]'")
    from phi_jax.bench import peer_transformers

    monkeypatch.setattr(peer_transformers, "attentions", lambda device: ["sdpa without mask"])
    case = case_of_shape("tiny", steps=4)
    result = rounds.compare(case, 1)
    (pair,) = result["rounds"]
    assert pair["ours"]["parameters"] == pair["peer"]["parameters"] == result["checks"]["parameters"]
    assert pair["ours"]["first_loss"] == pytest.approx(pair["peer"]["first_loss"], abs=rounds.LOSS_TOLERANCE)
    assert pair["ours"]["tokens_per_step"] == pair["peer"]["tokens_per_step"]
    assert pair["peer"]["attention"] == result["peer_attention"] == "sdpa without mask"
    ratio = result["ratio"]
    assert ratio["rounds"] == [pair["ours"]["tokens_per_second"] / pair["peer"]["tokens_per_second"]]
    assert ratio["low"] == ratio["median"] == ratio["high"] == ratio["rounds"][0]
    assert math.isfinite(ratio["median"])
    assert ratio["median"] > 0


def a_round(ours, peer, *, stolen=0.0, others=0.0):
    """What `one_round` returns, of these tokens a second; the peer's side is the disturbed one."""

    def side(speed, **shares):
        figures = {"first_loss": math.log(128), "parameters": 33664, "tokens_per_second": speed, "attention": "sdpa"}
        mfus = {"mfu_full_attention": 0.4, "mfu_causal_attention": None}
        return {"surroundings": {}, "case": {}, "figures": {**figures, **mfus, **shares}}

    return {
        "ours": side(ours, cpu_stolen_share=None, cpu_others_share=0.0),
        "peer": side(peer, cpu_stolen_share=stolen, cpu_others_share=others),
    }


def test_disturbed_rounds_are_told_from_undisturbed_ones():
    done = [a_round(80, 100), a_round(90, 100, stolen=0.06), a_round(300, 100, others=0.5), a_round(60, 100)]
    result = rounds.summary(case_of_shape("tiny", steps=1), done)
    ratio = result["ratio"]
    assert ratio["rounds"] == [0.8, 0.9, 3.0, 0.6]
    assert (ratio["median"], ratio["low"], ratio["high"]) == (pytest.approx(0.85), 0.6, 3.0)
    assert ratio["undisturbed"] == [0.8, 0.6]
    assert result["rounds"][0]["peer"]["mfu_full_attention"] == pytest.approx(0.5)
    assert result["rounds"][0]["peer"]["mfu_causal_attention"] is None


@pytest.mark.parametrize(
    ("side", "figures", "words"),
    [
        ("ours", {"first_loss": 9.0}, "ours first loss is 9.000"),
        ("peer", {"first_loss": 9.0}, "the peer's first loss is 9.000"),
        ("peer", {"parameters": 1}, "parameters against the peer's 1;"),
    ],
)
def test_what_computes_something_else_gets_no_ratio(side, figures, words):
    case = case_of_shape("tiny", steps=1)
    pair = {name: {"first_loss": math.log(128), "parameters": 33664} for name in ("ours", "peer")}
    assert rounds._check_same(case, **pair)["parameters"] == 33664
    pair[side] = {**pair[side], **figures}
    with pytest.raises(UserError, match=words):
        rounds._check_same(case, **pair)


def test_both_sides_see_the_same_batches():
    case = case_of_shape("tiny", steps=1)
    first, again = random_batches(case), random_batches(case)
    assert first[0].shape == (case.batch_size, SHAPES["tiny"]["max_seq_len"] + 1)
    assert not np.array_equal(first[0], first[1])
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
