"""SIGKILL in every stage, mid-write and mid-save included: afterwards the identities are those of a quiet run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from running import MICRO, ROOT, identities, phi_jax

# In the order in which one run meets them; each run goes on from the one before and dies at its own moment. One of each
# kind of write; by hand also OTHERS, which write as one of these does, in another stage.
MOMENTS = (
    ("synthesize", "os.rename", r"synthesize/grammar\.partial/textbooks/.*parquet$", 1),
    ("collect", "os.rename", r"collect/python\.partial/.*snapshot", 1),
    ("collect", "os.rename", r"collect/python\.partial/.*part-\d+\.parquet$", 1),
    ("collect", "os.rename", r"collect/python$", 1),
    ("dedup", "os.rename", r"dedup/python\.partial/documents/.*parquet$", 1),
    ("decontaminate", "os.rename", r"decontaminate/raw\.partial/.", 2),
    ("annotate", "os.rename", r"annotate/python\.partial/.", 1),
    ("tokenize", "os.rename", r"tokenize/tokenizer\.partial/tokenizer", 1),
    ("tokenize", "os.rename", r"tokenize/raw\.partial/.*array_record", 2),
    ("pretrain", "os.rename", r"pretrain/raw\.partial/checkpoints/\d+$", 2),
    ("filter", "os.rename", r"filter/python\.partial/embedded/", 1),
    ("finetune", "os.rename", r"finetune/finetuned\.partial/manifest\.json$", 1),
    ("select", "os.rename", r"select/finetuned\.partial/choice\.json$", 1),
    ("export", "os.rename", r"export/finetuned\.partial/model/README\.md$", 1),
    ("evaluate", "os.rename", r"evaluate/raw\.partial/parts/.*/part-\d+\.jsonl$", 2),
    ("report", "os.rename", r"report\.partial/report\.json$", 1),
)
OTHERS = (
    ("synthesize", "os.rename", r"synthesize/grammar\.partial/set_aside/exercises/.*parquet$", 1),
    ("dedup", "os.rename", r"dedup/python\.partial/duplicates/.*parquet$", 1),
    ("decontaminate", "os.rename", r"decontaminate/grammar\.partial/exercises/.*parquet$", 1),
    ("pretrain", "os.rename", r"pretrain/raw\.partial/manifest\.json$", 1),
    ("filter", "os.rename", r"filter/python\.partial/documents/", 1),
    ("finetune", "os.rename", r"finetune/finetuned\.partial/checkpoints/\d+$", 2),
    ("finetune", "os.rename", r"finetune/raw\+exercises$", 1),
    ("evaluate", "os.rename", r"evaluate/finetuned\.partial/scores\.json$", 1),
    ("report", "os.rename", r"report$", 1),
)


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(OTHERS, marks=pytest.mark.acceptance)])
def test_killed_in_every_stage(micro_run, tmp_path, moments):
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "tests/killed_run.py", json.dumps([moment[1:] for moment in moments]), "run", *MICRO,
         "--workdir", str(workdir)],
        cwd=ROOT, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    runs = re.findall(r"(.*?)^ended (\S+)$", done.stderr, re.M | re.S)
    for (stage, _, pattern, _), (said, code) in zip(moments, runs, strict=True):
        assert code == "-9", f"{pattern}: not killed\n{said}"
        killed = re.findall(r"killed at \S+ (\S+)", said)
        assert len(killed) == 1
        assert re.search(pattern, killed[0])
        assert f"/{stage}" in killed[0]
    phi_jax("run", *MICRO, "--workdir", workdir)
    assert identities(workdir) == identities(micro_run)


def ready_to_pretrain(micro_run, workdir):
    """A work directory that holds what stands before pretrain/raw."""
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")


def test_killed_between_two_checkpoints(micro_run, tmp_path):
    """Killed from outside in the middle of the steps, after the first checkpoint: the weights come out the same."""
    workdir = tmp_path / "run"
    ready_to_pretrain(micro_run, workdir)
    metrics = workdir / "pretrain" / "raw.partial" / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_jax.cli", "pretrain", *MICRO, "--name", "raw", "--workdir", str(workdir)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (metrics.parent / "checkpoints" / "8").is_dir() and metrics.read_text().count("\n") >= 9:
            break
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    again = phi_jax("pretrain", *MICRO, "--name", "raw", "--workdir", workdir)
    assert re.search(r"resumed from the checkpoint of step (8|16)", again.stderr)
    assert identities(workdir)["pretrain/raw"] == identities(micro_run)["pretrain/raw"]
    steps = [line.split(",")[0] for line in (workdir / "pretrain/raw/metrics.jsonl").read_text().splitlines()]
    assert steps == [f'{{"step": {i}' for i in range(24)]


def test_damaged_checkpoint_is_skipped_loudly(tmp_path, micro_run):
    """A truncated latest checkpoint costs its steps, never the run."""
    workdir = tmp_path / "run"
    ready_to_pretrain(micro_run, workdir)
    subprocess.run(
        [sys.executable, "tests/killed_run.py", "os.rename", r"pretrain/raw\.partial/manifest\.json$", "1",
         "pretrain", *MICRO, "--name", "raw", "--workdir", str(workdir)],
        cwd=ROOT, capture_output=True, timeout=300,
    )  # fmt: skip
    latest = workdir / "pretrain" / "raw.partial" / "checkpoints" / "24"
    assert latest.is_dir()
    for path in latest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            os.truncate(path, 500)
    again = phi_jax("pretrain", *MICRO, "--name", "raw", "--workdir", workdir)
    assert re.search(r"warning: checkpoint .*/24: cannot be read", again.stderr)
    assert "resumed from the checkpoint of step 16" in again.stderr
    assert identities(workdir)["pretrain/raw"] == identities(micro_run)["pretrain/raw"]
