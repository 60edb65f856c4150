"""`phi-jax evaluate --model`: killed it goes on, and it goes on with nothing else."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from running import ROOT, phi_jax

from phi_jax import cli
from phi_jax.errors import UserError
from phi_jax.evaluation.commands import evaluate_model
from phi_jax.evaluation.completion import Plan
from phi_jax.model import phi
from phi_jax.tokens import tokenizer
from phi_jax.weights.huggingface import export_model

CONFIG = phi.PhiConfig(vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, head_dim=16,
                       rotary_dim=8, max_seq_len=1024)  # fmt: skip
ASKED = ["--max-new-tokens", "8", "--samples-per-problem", "1", "--prompt-form", "both"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export of a model that has learnt nothing."""
    place = tmp_path_factory.mktemp("model")
    leaves, tree = jax.tree.flatten(phi.abstract_params(CONFIG))
    rng = np.random.default_rng(0)
    params = tree.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])
    trained = tokenizer.train(["def f(x):\n    return x\n"], 300)
    trained.save(place / "tokenizer", max_length=CONFIG.max_seq_len)
    export_model(
        params, CONFIG, place / "model", tokenizer_directory=place / "tokenizer",
        end_of_text_id=trained.end_of_text_id, dtype="float32",
    )  # fmt: skip
    return place / "model"


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """A few problems, in a file of their own."""
    file = tmp_path_factory.mktemp("problems") / "few.jsonl"
    rows = (ROOT / "phi_jax/evaluation/idioms.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(rows[:8]))
    return file


@pytest.fixture(scope="module")
def evaluated(model, problems, tmp_path_factory):
    """(what an undisturbed evaluation printed, where it wrote)."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return phi_jax("evaluate", "--model", model, "--problems", problems, *ASKED, "--out", out).stdout, out


@pytest.fixture(scope="module")
def killed(model, problems, tmp_path_factory):
    """Where an evaluation was killed as it had written its first part."""
    out = tmp_path_factory.mktemp("killed") / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_jax.cli", "evaluate", "--model", model, "--problems", problems, *ASKED,
         "--out", out],
        cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not parts(out):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert parts(out)
    assert not (out / "scores.json").exists()
    return out


def parts(out):
    return {p: p.stat().st_mtime_ns for p in (out / "parts").rglob("*") if p.is_file() and not p.name.startswith(".")}


def results(out):
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file() and p.name != ".lock"}


def test_a_killed_evaluation_goes_on(model, problems, evaluated, killed, tmp_path):
    out = shutil.copytree(killed, tmp_path / "out", copy_function=shutil.copy2)
    made = parts(out)
    done = phi_jax("evaluate", "--model", model, "--problems", problems, *ASKED, "--out", out)
    assert done.stdout == evaluated[0]
    assert results(out) == results(evaluated[1])
    assert made.items() <= parts(out).items()
    assert len(parts(out)) > len(made)


def test_both_forms_are_told_apart(evaluated):
    out = evaluated[1]
    entries = json.loads((out / "scores.json").read_text())
    assert [(e["prompt_form"], e["decoding"].partition(" ")[0], e["samples"]) for e in entries] == [
        ("stripped", "greedy", 8),
        ("stripped", "temperature", 8),
        ("kept", "greedy", 8),
        ("kept", "temperature", 8),
    ]
    records = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert [r["prompt_form"] for r in records] == ["stripped"] * 16 + ["kept"] * 16
    assert len((out / "samples.jsonl").read_text().splitlines()) == 32


def again(model, problems, out, **changes):
    """The evaluation of ASKED in this process."""
    plan = {"max_new_tokens": 8, "samples_per_problem": 1, "prompt_form": "both", **changes}
    return evaluate_model(str(model), None, str(out), problems_file=str(problems), sandbox="full", workers=2, **plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "an unfinished evaluation with seed 0, not 1; ask for the same to go on"),
        ({"prompt_form": "kept"}, "prompt_form both, not kept"),
        ({"model": "another"}, "another content of its model"),
        ({"problems": "another"}, "benchmark few, not another"),
    ],
)
def test_an_evaluation_is_not_gone_on_with_in_another_way(model, problems, killed, tmp_path, change, message):
    if "model" in change:
        model = shutil.copytree(model, tmp_path / change.pop("model"))
        (model / "README.md").write_text("another")
    if "problems" in change:
        problems = shutil.copy(problems, tmp_path / f"{change.pop('problems')}.jsonl")
    before = parts(killed)
    with pytest.raises(UserError, match=message):
        again(model, problems, killed, **change)
    assert parts(killed) == before


def test_what_is_there_is_not_written_over(model, problems, evaluated, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (evaluated[1], tmp_path):
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        with pytest.raises(UserError, match="exists already"):
            again(model, problems, out)
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_what_failed_at_once_is_in_nobodys_way(model, problems, tmp_path):
    with pytest.raises(UserError, match="max_new_tokens=2000"):
        again(model, problems, tmp_path / "out", max_new_tokens=2000)
    with pytest.raises(UserError, match="no directory"):
        again(tmp_path / "none", problems, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert len(again(model, problems, tmp_path / "out", samples_per_problem=0)) == 2


def test_the_help_tells_what_is_done_without_an_option():
    source = inspect.getsource(cli._add_decoding_options)
    defaults = {name: getattr(Plan, name) for name in cli._PLAN if hasattr(Plan, name)}
    assert len(defaults) >= 6
    for name, value in defaults.items():
        (line,) = [line for line in source.splitlines() if f'"--{name.replace("_", "-")}"' in line]
        assert f"({value})" in line
