"""The pipeline as a user meets it: a run, a second run, a changed field, what is left behind."""

import json
import re
import shutil
import tomllib

import pytest
from running import MICRO, ROOT, identities, made_in, phi_jax

from phi_jax import __version__, config, fields, graph
from phi_jax.errors import UserError
from phi_jax.store import artifact
from phi_jax.store.digests import PathDigests

# "report/" as running.identities calls the stage without a name.
LABELS = [f"{s.stage}/{s.name}" for s in graph.stages(config.load(MICRO))]


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


def test_finished_stages_are_skipped(micro_run, tmp_path):
    workdir = copy(micro_run, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in workdir.glob("*/*/manifest.json")}
    done = phi_jax("run", *MICRO, "--workdir", workdir)
    assert done.stderr == f"{len(LABELS)} of {len(LABELS)} stages are whole\n"
    assert "report: " in done.stdout
    assert {p: p.stat().st_mtime_ns for p in workdir.glob("*/*/manifest.json")} == before


def test_a_changed_field_runs_again_only_what_depends_on_it(micro_run, tmp_path):
    workdir = copy(micro_run, tmp_path)
    change = "--config.evaluate.max_new_tokens=12"
    done = phi_jax("status", *MICRO, change, "--workdir", workdir)
    assert "stale" in done.stdout
    assert "evaluate.max_new_tokens 16 -> 12" in done.stdout
    promised = made_again(change, workdir)
    done = phi_jax("run", *MICRO, change, "--workdir", workdir)
    changed = {label for label in LABELS if label.startswith("evaluate/")} | {"report/"}
    assert promised == set(made_in(done.stderr)) == {label.rstrip("/") for label in changed}
    assert f"{len(LABELS) - len(changed)} of {len(LABELS)} stages are whole" in done.stderr
    after, before = identities(workdir), identities(micro_run)
    assert {k for k in LABELS if after[k] != before[k]} == changed


def made_again(change, workdir):
    """The stages that a dry run of a changed config says would run."""
    done = phi_jax("run", *MICRO, change, "--workdir", workdir, "--dry-run")
    return set(re.findall(r"^(\S+) +stale ", done.stdout, re.M))


def test_a_changed_field_of_finetune_trains_nothing_else(micro_run):
    again = made_again("--config.finetune.steps=12", micro_run)
    models = ("finetuned", "raw+exercises")
    assert again == {f"{stage}/{m}" for stage in ("finetune", "select", "export", "evaluate") for m in models} | {
        "report"
    }


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
    for label in ("export/base", "report"):
        (workdir / label).rename(workdir / f"{label}.partial")
        (workdir / f"{label}.partial" / "manifest.json").unlink()
    done = phi_jax("status", "--workdir", workdir)
    assert "export/base                   interrupted" in done.stdout
    assert "evaluate/base                 stale" in done.stdout
    assert "report                        interrupted" in done.stdout
    with artifact.locked(workdir):  # the stage that was begun last in a run that goes on is no interrupted one
        done = phi_jax("status", "--workdir", workdir)
    assert "export/base                   interrupted" in done.stdout
    assert "report                        running" in done.stdout


@pytest.mark.parametrize("command", ["run", "collect", "evaluate", "score", "sample", "status"])
def test_every_command_shows_an_example(command):
    done = phi_jax(command, "--help")
    assert "example:" in done.stdout
    assert f"phi-jax {command}" in done.stdout


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "phi_jax.__version__"}
    assert phi_jax("--version").stdout == f"phi-jax {__version__}\n"


PHI_1 = ["--config", f"{ROOT}/configs/phi_1.py"]


# --- The graph ------------------------------------------------------------------------------------------------


def graph_of(*overrides, base=PHI_1):
    return {s.label: s for s in graph.stages(config.load([*base, *overrides]))}


def test_who_writes_names_the_artifacts_and_decides_what_they_depend_on():
    grammar = graph_of(base=MICRO)
    assert grammar["decontaminate/raw"].inputs["problems"] == "synthesize/grammar"
    assert grammar["evaluate/raw"].inputs["problems"] == "synthesize/grammar"
    taught = graph_of()
    assert taught["synthesize/teacher"].sections == ("texts.teacher", "teachers.writer", "budget")
    assert taught["annotate/python"].sections == ("annotate", "teachers.grader", "budget")
    assert "problems" not in {*taught["decontaminate/raw"].inputs, *taught["evaluate/raw"].inputs}
    assert taught["decontaminate/teacher"].inputs == {"documents": "synthesize/teacher"}
    files = graph_of("--config.texts.teacher.writer=files")
    assert files["synthesize/teacher"].sections == ("texts.teacher",)


def values_of(base=MICRO):
    return config.load(base).to_dict()


def experiment(models, **sections):
    values = values_of() | sections
    full = {"start": "", "rules": "training", "select": "latest"}
    return config.Config(values | {"models": {name: full | about for name, about in models.items()}})


def test_another_experiment_needs_a_config_and_no_code():
    """Textbooks alone, then exercises twice, with rules of their own: no filter, and no raw model."""
    values = values_of()
    chosen = experiment(
        {
            "books": {"mixture": [["grammar.textbooks", 1.0]]},
            "once": {"mixture": [["grammar.exercises", 1.0]], "start": "books", "rules": "finetune"},
            "twice": {"mixture": [["grammar.exercises", 1.0]], "start": "once", "rules": "slow", "select": "pass_at_1"},
        },
        slow=values["finetune"] | {"learning_rate": 1e-3},
        tokenize=values["tokenize"] | {"learn_on": ["grammar.textbooks"]},
    )
    found = {s.label: s for s in graph.stages(chosen)}
    assert list(found) == [
        "synthesize/grammar", "decontaminate/grammar", "tokenize/tokenizer", "tokenize/grammar.textbooks",
        "pretrain/books", "tokenize/grammar.exercises", "finetune/once", "finetune/twice", "export/books",
        "export/once", "select/twice", "export/twice", "evaluate/books", "evaluate/once", "evaluate/twice", "report",
    ]  # fmt: skip
    assert found["finetune/twice"].inputs == {
        "checkpoint": "finetune/once", "grammar.exercises": "tokenize/grammar.exercises",
    }  # fmt: skip
    assert "slow" in found["finetune/twice"].sections
    assert found["export/twice"].inputs == {"checkpoint": "select/twice"}
    assert found["select/twice"].inputs["problems"] == "synthesize/grammar"


RAW = {"mixture": [["raw", 1.0]]}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            {"a": RAW | {"start": "b"}, "b": RAW | {"start": "a"}},
            "a circle: finetune/a needs finetune/b needs finetune/a",
        ),
        ({"a": {"mixture": [["filtered", 1.0]]}}, "config.filter.model='raw': no such model; there are: a"),
        ({"raw": {"mixture": [["filtered", 1.0]]}}, "a circle"),
        ({"a": {"mixture": [["textbooks", 1.0]]}}, "config.models.a.mixture: no token set 'textbooks'; there are: raw"),
        ({"a": {"mixture": []}}, "config.models.a.mixture: must hold pairs"),
        ({"a": {"mixture": [["raw", 0.0]]}}, "config.models.a.mixture: must hold pairs"),
        ({"a": RAW | {"start": "b"}}, "config.models.a.start='b': no such model; there are: a"),
        ({"a": RAW | {"rules": "quick"}}, "config.models.a.rules='quick': no such section"),
        ({"a": RAW | {"select": "best"}}, "config.models.a.select='best': use one of 'latest'"),
        ({}, "config.models is empty"),
    ],
)
def test_an_experiment_that_cannot_be_is_one_line(models, message):
    with pytest.raises(UserError) as refused:
        graph.stages(experiment(models))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "texts.teacher.writer=nobody",
            "writer='nobody': no section config.teachers.nobody; there are",
        ),
        ("annotate.grader=static:x", "must read like 'writer' or 'writer:0.8,ours:0.2'"),
        ("decontaminate.problems=nano", "the problems that the grammar holds out, but 0 entries of config.texts"),
        ("texts.teacher.writer=grammar", "config.texts.teacher.family_cap: no such field"),
    ],
)
def test_a_config_that_asks_for_what_its_teacher_does_not_make(override, message, tmp_path):
    done = phi_jax("synthesize", *PHI_1, f"--config.{override}", "--workdir", tmp_path / "w", check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- What makes a stage stale ---------------------------------------------------------------------------------


def decided(*overrides, base=PHI_1):
    chosen = config.load([*base, *overrides])
    return {s.label: s.decides(chosen, PathDigests(None)) for s in graph.stages(chosen)}


def test_where_a_teacher_is_and_what_may_be_spent_decide_nothing():
    here = decided()
    elsewhere = ("base_url=http://localhost:8000/v1", "mode=live", "key_variable=", "timeout=5.0", "price_as=local")
    assert decided(*(f"--config.teachers.writer.{e}" for e in elsewhere), "--config.budget.max_dollars=5.0") == here
    other = decided("--config.teachers.writer.model=gpt-4")
    assert [label for label in here if here[label] != other[label]] == ["synthesize/teacher"]


FILES = [*PHI_1, "--config.texts.teacher.writer=files"]
PATHS = [
    ("texts.teacher.files=('{}',)", "synthesize/teacher"),
    ("collect.sources=('{}',)", "collect/python"),
    ("collect.opt_outs={}", "collect/python"),
    ("dedup.against=('{}',)", "dedup/python"),
    ("filter.model={}", "filter/python"),
    ("decontaminate.problems={}", "decontaminate/raw"),
    ("evaluate.benchmark={}", "evaluate/base"),
    ("evaluate.further_benchmarks=('{}',)", "evaluate/base"),
    ("training.initial_checkpoint={}", "pretrain/raw"),
    ("tokenize.tokenizer={}", "tokenize/tokenizer"),
    ("select.problems={}", "select/finetuned"),
    ("prune.problems={}", "prune/grammar"),
    ("prune.model={}", "prune/grammar"),
]


@pytest.mark.parametrize(("field", "stage"), PATHS)
@pytest.mark.parametrize("kind", ["file", "directory", "home"])
def test_what_a_path_holds_decides_and_not_its_name(tmp_path, monkeypatch, field, stage, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    base = FILES if field.startswith("texts") else [*MICRO, "--config.prune.problems=idioms"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text("1")
    root, below = ("~" if kind == "home" else tmp_path), ("" if kind == "directory" else "/x.jsonl")
    before = decided(f"--config.{field.format(f'{root}/a{below}')}", base=base)[stage]
    assert decided(f"--config.{field.format(f'{root}/b{below}')}", base=base)[stage] == before
    (tmp_path / "a" / "x.jsonl").write_text("2")
    assert decided(f"--config.{field.format(f'{root}/a{below}')}", base=base)[stage] != before


def test_the_name_of_a_model_is_no_path(tmp_path, monkeypatch):
    before = decided()
    (tmp_path / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    assert decided() == before


def test_every_path_of_a_config_is_among_these():
    tried = {field.partition("=")[0].replace("teacher", "*") for field, _ in PATHS}
    assert tried == {path for path, field in fields.FIELDS.items() if field.path}


def changed_value(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value * 2 + 1 if isinstance(value, int | float) else [*value, 1]


def test_an_interrupted_training_goes_on_or_is_refused_and_is_never_lost(tmp_path):
    """Each field of `training` and `model` changed, one at a time, on a partial run with a checkpoint."""
    values = values_of()
    stage = graph_of(base=MICRO)["pretrain/raw"]

    def opened(changed):
        decides = stage.decides(config.Config(changed), PathDigests(None))
        return artifact.open_draft(tmp_path, "pretrain", "raw", {}, {}, decides=decides)

    (opened(values).directory / "checkpoints" / "8").mkdir(parents=True)
    for section in ("training", "model"):
        for name, value in values[section].items():
            changed = values | {section: values[section] | {name: changed_value(value)}}
            if fields.field_of(f"{section}.{name}").decides:
                with pytest.raises(UserError, match=rf"saved step 8 .*{section}\.{name} .* -> .* to start afresh"):
                    opened(changed)
            else:
                assert opened(changed).resumed, name
            assert (tmp_path / "pretrain/raw.partial/checkpoints/8").exists()


def test_a_work_directory_of_an_earlier_version_is_left_as_it_is(tmp_path):
    old = tmp_path / "collect" / "python"
    old.mkdir(parents=True)
    (old / "manifest.json").write_text('{"format": 1}')
    done = phi_jax("run", *MICRO, "--workdir", tmp_path, check=False)
    assert done.returncode == 1
    assert "format 1, this phi_jax reads 2; start in a new work directory" in done.stderr
    left = {p.name for p in tmp_path.rglob("*")} - {".lock"}
    assert left == {"collect", "python", "manifest.json"}
