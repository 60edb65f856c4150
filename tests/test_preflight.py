"""`run --dry-run`: every config of the project passes, every mistake is named before anything runs, nothing changes."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
from published import PHI
from running import ROOT
from test_teacher_journal import request

from phi_jax import cli
from phi_jax.parallel import processes
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.request import PICODOLLARS
from phi_jax.tokens import tokenizer

GIB = 2**30
SUM = json.dumps({
    "task_id": "ours/0", "prompt": 'def f(x):\n    """Return the sum of x."""\n', "entry_point": "f",
    "test": "def check(f):\n    assert f([1]) == 1", "canonical_solution": "    return sum(x)\n",
}) + "\n"  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A large disk, a key, and what a user has to set, in the directory where the command runs."""
    monkeypatch.setattr(processes, "set_cpu_devices", lambda count: None)  # pytest's process keeps its devices
    disk = SimpleNamespace(free=10_000 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-preflight")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("a = 1\n")
    (tmp_path / "ours.jsonl").write_text(SUM)
    (tmp_path / "damaged.jsonl").write_text(SUM + '{"task_id": \n')
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    tokenizer.train(["def f(x):\n    return [x, x + 1, f(x)]\n"], 310).save(tmp_path / "bpe", max_length=2048)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(PHI))
    return disk


# What is a user's to set in phi_1.py and phi_1_small.py.
SET = {
    "collect.sources": "('code',)", "budget.max_dollars": 1e5, "decontaminate.problems": "ours.jsonl",
    "evaluate.benchmark": "ours.jsonl", "tokenize.tokenizer": "bpe",
}  # fmt: skip


def phi_jax(capsys, *words, config="phi_1.py", **fields):
    """(exit code, standard output, the one line of an error)."""
    chosen = ["--config", f"{ROOT}/configs/{config}", *(f"--config.{name}={value}" for name, value in fields.items())]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, *chosen, "--workdir", "w"])
    said = capsys.readouterr()
    assert said.err.count("\n") == (ended.value.code != 0), said.err
    return ended.value.code, said.out, said.err


@pytest.mark.parametrize(
    ("config", "kernel"),
    [
        ("nano.py", ""), ("nano.py:size=laptop", ""), ("nano.py:size=micro", ""), ("phi_1.py", ""),
        ("phi_1.py:attention=xla", ""), ("phi_1.py:attention=cudnn", "an NVIDIA GPU"),
        ("phi_1.py:attention=splash", "a TPU"), ("phi_1_small.py", ""), ("phi_1_small.py:attention=xla", ""),
        ("phi_1_small.py:attention=cudnn", "an NVIDIA GPU"), ("phi_1_small.py:attention=splash", "a TPU"),
    ],
)  # fmt: skip
def test_every_config_passes_with_what_is_a_users_to_set(config, kernel, capsys, tmp_path):
    fields = {} if config.startswith("nano") else SET
    before = sorted(tmp_path.rglob("*"))
    code, said, error = phi_jax(capsys, "run", "--dry-run", config=config, **fields)
    if kernel:  # and there is none here
        assert f"this kernel needs {kernel}, and the devices here are cpu" in error
        return
    assert code == 0, error
    lines = said.splitlines()
    assert {line.split()[1] for line in lines if line.endswith(" -")} == {"missing"}
    assert "a known program passes" in said
    assert ("budget: $0.00 spent, $0.00 reserved of $100000.00; 0 replies there" in said) == bool(fields)
    assert any(line.startswith("devices: ") and "(cpu)" in line for line in lines)
    assert lines[-1].endswith("stages would run; nothing was")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"collect.sources": "('gone',)"}, "config.collect.sources: gone: no such file or directory"),
        ({"collect.sources": "('pipe.py',)"}, "pipe.py: cannot be read; name a directory or a regular file"),
        ({"decontaminate.problems": "damaged.jsonl"}, "damaged.jsonl:2: not JSON"),
        ({"evaluate.further_benchmarks": "('idioms','nowhere')"}, "benchmark nowhere: neither built in"),
        ({"evaluate.perturbations": "('typo',)"}, "config.evaluate.perturbations=['typo']: use one of 'typos'"),
        ({"tokenize.tokenizer": "empty"}, "empty/tokenizer.json: no such file"),
        ({"tokenize.vocab_size": 300}, "config.tokenize.vocab_size=300: the tokenizer bpe has more entries"),
        ({"training.initial_checkpoint": "empty"}, "empty/config.json"),
        ({"training.initial_checkpoint": "model"}, "config.training.initial_checkpoint='model': its vocab_size is 320"),
        ({"texts.teacher.writer": "files", "texts.teacher.files": "('gone.jsonl',)"}, "teacher.files: gone.jsonl: no"),
        ({"models.raw.select": "pass_at_1", "select.problems": "gone", "training.keep_every": 1000}, "benchmark gone"),
        ({"models.base.start": "finetuned"}, "the experiment has a circle: "),
        ({"models.base.mixture": "(('stories', 1.0),)"}, "config.models.base.mixture: no token set 'stories'"),
        ({"teachers.grader.key_variable": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY is not set"),
        ({"teachers.grader.model": "unheard-of"}, "teacher grader: no price of 'unheard-of'"),
        ({"budget.max_dollars": 0.0}, "config.budget.max_dollars=0: no request can be paid"),
        ({"training.microbatches": 3}, "global_batch_size=1024 cannot be cut into microbatches=3"),
        ({"training.mesh": "(2,1,1)"}, "config.training.mesh=(2, 1, 1): the product"),
        ({"finetune.warmup_steps": 6000}, "config.finetune, the rules of config.models.finetuned: warmup_steps=6000"),
        ({"training.steps": 60, "training.schedule_steps": 24}, "steps=60 exceeds schedule_steps=24"),
        ({"evaluate.max_new_tokens": 2048}, "config.evaluate.max_new_tokens=2048: config.tokenize.seq_len=2048 leaves"),
        ({"tokenize.validation_fraction": 0.0}, "config.tokenize.validation_fraction=0.0: must be a number, above 0"),
    ],
)
def test_a_mistake_is_named_by_a_dry_run_and_by_a_run_before_it_writes(changes, message, capsys, tmp_path):
    for words in (["run", "--dry-run"], ["run"]):
        code, said, error = phi_jax(capsys, *words, **SET | changes)
        assert (code, said) == (1, "")
        assert error.startswith("phi-jax: error: ")
        assert message in error
        assert not (tmp_path / "w").exists()


def test_a_disk_that_is_too_small_is_named_with_what_goes_there(capsys, machine):
    machine.free = 100 * GIB
    _, _, error = phi_jax(capsys, "run", "--dry-run", **SET)
    assert "--workdir w: its disk has 100 GiB left, and the stages will write about" in error
    # 1.418e9 parameters of 12 bytes; two latest saves, those of 6,000, 12,000 and 18,000, and one being written.
    machine.free = 10_000 * GIB
    one = 1_418_270_720 * 12 / GIB
    _, said, _ = phi_jax(capsys, "run", "--dry-run", **SET)
    assert f"checkpoints {2 * 6 * one + 2 * 7 * one:.3g}" in said


def test_a_tokenizer_of_the_hub_is_looked_up_and_not_fetched(capsys, monkeypatch):
    asked = []

    def snapshot(name, *, local_files_only):
        assert local_files_only
        raise OSError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name: asked.append(name))
    fields = SET | {"tokenize.tokenizer": "Salesforce/codegen-350M-mono"}
    assert phi_jax(capsys, "run", "--dry-run", **fields)[0] == 0
    assert asked == ["Salesforce/codegen-350M-mono"]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name: 1 / 0)
    _, _, error = phi_jax(capsys, "run", "--dry-run", **fields)
    assert "Salesforce/codegen-350M-mono: neither a directory here nor to be had from the Hugging Face Hub" in error


def test_a_sandbox_that_cannot_work_is_named(capsys, monkeypatch):
    monkeypatch.setattr("phi_jax.sandbox.pool._ENVIRONMENT", {"PYTHONHOME": "/nowhere"})
    _, _, error = phi_jax(capsys, "run", "--dry-run", config="nano.py:size=micro")
    assert "config.texts.grammar.sandbox='full': " in error


def test_what_is_in_flight_is_said_and_a_lower_cap_collects_it(capsys, tmp_path):
    with Journal(tmp_path / "before" / "teacher") as journal:
        journal.begin(request(), 3 * PICODOLLARS, cap=9 * PICODOLLARS, via="batch/1")
        shutil.copytree(tmp_path / "before", tmp_path / "w")  # as a kill leaves it: all of it lies in SQLite's log
    code, said, _ = phi_jax(capsys, "run", "--dry-run", **SET | {"budget.max_dollars": 2.0})
    assert "budget: $0.00 spent, $3.00 reserved of $2.00; 0 replies there" in said
    assert code == 0


def test_a_dry_run_says_which_stages_would_run_and_why(micro_run, tmp_path, capsys):
    workdir = shutil.copytree(micro_run, tmp_path / "w")
    for name in ("raw+exercises", "finetuned"):  # as a kill leaves them, just before they are put in place
        (workdir / "finetune" / name).rename(workdir / "finetune" / f"{name}.partial")
    (workdir / "finetune" / "finetuned.partial" / "manifest.json").unlink()
    manifest = json.loads((workdir / "finetune/raw+exercises.partial/manifest.json").read_text())
    about = {"format": 2, "key": "of other inputs", "decides": manifest["decides"] | {"seed": 7}, "inputs": {}}
    (workdir / "export" / "base.partial").mkdir()
    (workdir / "export" / "base.partial" / "draft.json").write_text(json.dumps(about))
    (workdir / "export" / "base" / "manifest.json").unlink()
    micro = {"config": "nano.py:size=micro"}

    code, said, error = phi_jax(capsys, "run", "--dry-run", **micro)  # the draft of the other finetuning is gone
    assert code == 1
    assert "finetune/finetuned: an interrupted run saved step 16 in " in error
    assert "or was an earlier phi_jax" in error
    shutil.rmtree(workdir / "finetune" / "finetuned.partial")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    code, said, error = phi_jax(capsys, "run", "--dry-run", **micro, **{"evaluate.max_new_tokens": 12})
    assert code == 0, error
    found = {line.split()[0]: line.split(maxsplit=3) for line in said.splitlines()}
    assert found["finetune/raw+exercises"][1] == "whole"
    assert found["finetune/finetuned"][1] == "missing"
    base = found["export/base"]
    assert base[1] == "interrupted"
    assert base[3].startswith("stopped; since it began: ")
    assert "seed 7 -> absent" in base[3]
    assert "input pretrain/base absent -> " in base[3]
    identity = json.loads((workdir / "select/finetuned/manifest.json").read_text())["inputs"]["training"]["identity"]
    assert found["select/finetuned"][3] == f"input finetune/finetuned {identity[:12]} -> made anew"
    assert found["evaluate/raw"][3] == "evaluate.max_new_tokens 16 -> 12"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(workdir.rglob("*")) == sorted(before)


def test_status_says_both_identities_of_what_changed(micro_run, tmp_path, capsys):
    workdir = shutil.copytree(micro_run, tmp_path / "w")
    path = workdir / "tokenize" / "raw" / "manifest.json"
    manifest = json.loads(path.read_text())
    old, manifest["identity"] = manifest["identity"], "f" * 64
    path.write_text(json.dumps(manifest))
    (tmp_path / "other.jsonl").write_text(SUM.replace("sum", "max"))
    fields = {"decontaminate.problems": "ours.jsonl"}
    _, said, _ = phi_jax(capsys, "status", config="nano.py:size=micro", **fields)
    assert f"input tokenize/raw {old[:12]} -> {'f' * 12}" in said
    assert 'decontaminate.problems "nano" -> {"sha256": "' in said
    assert all(len(line) < 400 for line in said.splitlines())
