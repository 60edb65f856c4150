"""The pipeline as a user meets it: a run, a second run, a changed field, what is left behind."""

import json
import shutil
import subprocess
import sys

import pytest
from running import MICRO, ROOT, identities, phi_jax

from phi_jax import config, pipeline

# "report/" as running.identities calls the stage without a name.
LABELS = [f"{s.stage}/{s.name}" for s in pipeline.stages(config.load(MICRO))]


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


PHI_1 = ["--config", f"{ROOT}/configs/phi_1.py"]


def test_who_writes_names_the_artifact_and_decides_what_it_depends_on():
    grammar = {s.label: s for s in pipeline.stages(config.load(MICRO))}
    assert grammar["decontaminate/nano"].inputs["problems"] == grammar["evaluate/raw"].inputs["problems"]
    chosen = config.load([*PHI_1, "--config.annotate.grader=grader"])
    taught = {s.label: s for s in pipeline.stages(chosen)}
    assert taught["synthesize/teacher"].sections == ("synthesize", "teachers.writer", "budget")
    assert taught["annotate/python"].sections == ("annotate", "teachers.grader", "budget")
    assert "problems" not in {*taught["decontaminate/nano"].inputs, *taught["evaluate/raw"].inputs}
    assert taught["decontaminate/nano"].inputs["synthetic"] == "synthesize/teacher"
    given = [s.label for s in pipeline.stages(config.load([*PHI_1, "--config.synthesize.teacher=files"]))]
    assert "synthesize/files" in given


def test_where_a_teacher_is_and_what_may_be_spent_change_no_key():
    def keys(*overrides):
        chosen = config.load([*PHI_1, *overrides])
        return {s.label: s.key(chosen, {}) for s in pipeline.stages(chosen) if s.stage in ("synthesize", "annotate")}

    here = keys()
    elsewhere = ("base_url=http://localhost:8000/v1", "mode=live", "key_variable=", "timeout=5.0", "price_as=local")
    assert keys(*(f"--config.teachers.writer.{e}" for e in elsewhere), "--config.budget.max_dollars=5.0") == here
    other = keys("--config.teachers.writer.model=gpt-4")
    assert [label for label in here if here[label] != other[label]] == ["synthesize/teacher"]
    other = keys("--config.teachers.writer.generation=2")
    assert [label for label in here if here[label] != other[label]] == ["synthesize/teacher"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "synthesize.teacher=nobody",
            "config.synthesize.teacher='nobody': no section config.teachers.nobody; there are",
        ),
        ("annotate.grader=static:x", "must read like 'writer' or 'writer:0.8,ours:0.2'"),
        ("decontaminate.problems=nano", "the problems that the grammar holds out, but config.synthesize.teacher is"),
        ("synthesize.teacher=grammar", "config.synthesize.family_cap: no such field"),
    ],
)
def test_a_config_that_asks_for_what_its_teacher_does_not_make(override, message, tmp_path):
    done = phi_jax("synthesize", *PHI_1, f"--config.{override}", "--workdir", tmp_path / "w", check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_teacher_without_a_price_is_found_before_anything_runs(tmp_path):
    done = phi_jax(
        "run", *PHI_1, "--config.teachers.grader.model=unheard-of", "--config.collect.sources=('phi_jax',)",
        "--workdir", tmp_path / "w", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "teacher grader: no price of 'unheard-of'" in done.stderr
    assert not (tmp_path / "w").exists()


def test_without_the_client_a_teacher_is_one_line_and_the_grammar_runs(tmp_path):
    """As a user has it who installed no extra: openai and what it brings cannot be imported."""
    hidden = (
        "import importlib.util as u, runpy, sys\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('openai', 'aiohttp', 'pydantic') else real(name, *a)\n"
        "sys.modules.update(dict.fromkeys(('openai', 'aiohttp', 'pydantic')))\n"
        "from phi_jax.cli import main\nmain(sys.argv[1:])\n"
    )

    def run(*words):
        command = [sys.executable, "-c", hidden, *map(str, words), "--workdir", str(tmp_path / "w")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    for words in (
        ["run", *PHI_1], ["synthesize", *PHI_1, "--pilot=5"], ["synthesize", *PHI_1, "--retry-poisoned"],
        ["synthesize", *PHI_1, "--config.synthesize.teacher=files"],
    ):  # fmt: skip
        done = run(*words)
        assert done.returncode == 1
        assert "need the package openai, which is not installed here: pip install -e '.[teacher]'" in done.stderr
        assert "Traceback" not in done.stderr
    done = run("synthesize", *MICRO)
    assert done.returncode == 0, done.stderr
