"""The pipeline as a user meets it: a run, a second run, a changed field, what is left behind."""

import json
import shutil

import pytest
from running import MICRO, identities, phi_jax

from phi_jax import pipeline

# "report/" as running.identities calls the stage without a name.
LABELS = [f"{s.stage}/{s.name}" for s in pipeline.STAGES]


def copy(micro_run, tmp_path):
    return shutil.copytree(micro_run, tmp_path / "run")


def test_a_run_leaves_every_artifact_whole(micro_run):
    assert sorted(identities(micro_run)) == sorted(LABELS)
    done = phi_jax("status", "--workdir", micro_run)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["whole"] * len(LABELS)


def test_what_a_run_leaves_lies_where_the_design_says(micro_run):
    scores = json.loads((micro_run / "evaluate" / "scores.json").read_text())
    assert {
        "model",
        "benchmark",
        "prompt_form",
        "metric",
        "value",
        "low",
        "high",
        "problems",
        "samples",
    } <= set(scores[0])
    assert all(0 <= s["low"] <= s["value"] <= s["high"] <= 1 for s in scores)
    lines = [json.loads(x) for x in (micro_run / "pretrain/base/metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(24))
    assert {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second"} <= set(lines[0])
    assert "validation_loss" in lines[-1]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    assert (micro_run / "report" / "index.html").stat().st_size > 5000
    assert (micro_run / "report" / "report.json").exists()
    assert list((micro_run / "pretrain/base/tensorboard").glob("events*"))


def test_again_means_nothing_to_do(micro_run, tmp_path):
    workdir = copy(micro_run, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in workdir.glob("*/*/manifest.json")}
    done = phi_jax("run", *MICRO, "--workdir", workdir)
    assert done.stderr.count("whole, skipped") == len(LABELS)
    assert {p: p.stat().st_mtime_ns for p in workdir.glob("*/*/manifest.json")} == before


def test_a_changed_field_runs_again_only_what_depends_on_it(micro_run, tmp_path):
    workdir = copy(micro_run, tmp_path)
    change = "--config.evaluate.max_new_tokens=12"
    done = phi_jax("status", *MICRO, change, "--workdir", workdir)
    assert "stale" in done.stdout
    assert "config changed: evaluate.max_new_tokens" in done.stdout
    done = phi_jax("run", *MICRO, change, "--workdir", workdir)
    changed = {label for label in LABELS if label.startswith("evaluate/")} | {"report/"}
    for label in set(LABELS) - changed:
        assert f"{label}: whole, skipped" in done.stderr
    for label in changed:
        assert f"{label.rstrip('/')}: done" in done.stderr
    after, before = identities(workdir), identities(micro_run)
    assert {k for k in LABELS if after[k] != before[k]} == changed


def test_a_changed_field_of_finetune_trains_nothing_else(micro_run, tmp_path):
    workdir = copy(micro_run, tmp_path)
    done = phi_jax("run", *MICRO, "--config.finetune.learning_rate=1e-3", "--workdir", workdir)
    again = {line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line}
    models = ("finetuned", "raw+exercises")
    assert again == {f"{stage}/{m}" for stage in ("finetune", "export", "evaluate") for m in models} | {"report"}


def test_a_stage_alone_needs_its_inputs(tmp_path):
    done = phi_jax("pretrain", *MICRO, "--workdir", tmp_path / "w", check=False)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("phi-jax: error: pretrain/raw needs tokenize/raw, which is not in")
    )
    assert "Traceback" not in done.stderr


def test_an_interrupted_stage_shows_in_status(micro_run, tmp_path):
    workdir = copy(micro_run, tmp_path)
    (workdir / "export" / "base").rename(workdir / "export" / "base.partial")
    (workdir / "export" / "base.partial" / "manifest.json").unlink()
    done = phi_jax("status", "--workdir", workdir)
    assert "export/base            interrupted" in done.stdout
    assert "evaluate/base          stale" in done.stdout


@pytest.mark.parametrize("command", ["run", "collect", "evaluate", "score", "sample", "status"])
def test_every_command_shows_an_example(command):
    done = phi_jax(command, "--help")
    assert "example:" in done.stdout
    assert f"phi-jax {command}" in done.stdout
