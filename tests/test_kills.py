"""SIGKILL in every stage, mid-write and mid-save included: afterwards the identities are those of a quiet run."""

import os
import re
import shutil

import pytest
from running import MICRO, identities, phi_jax, python

# In the order in which one run meets them; each run goes on from the one before and dies at its own moment. One of each
# stage that goes on from parts, and of a commit; the stages are made anew in a run that is done. OTHERS, by hand, are
# of one from nothing.
MOMENTS = (
    ("synthesize/grammar", r"\.partial/textbooks/.*parquet$", 1),
    ("collect/python", r"\.partial/.*part-\d+\.parquet$", 1),
    ("collect/python", r"$", 1),
    ("dedup/python", r"\.partial/documents/.*parquet$", 1),
    ("tokenize/raw", r"\.partial/.*array_record", 2),
    ("pretrain/raw", r"\.partial/checkpoints/\d+$", 2),
    ("filter/python", r"\.partial/embedded/", 1),
    ("evaluate/raw", r"\.partial/parts/.*/part-\d+\.jsonl$", 2),
)
OTHERS = (
    ("synthesize/grammar", r"\.partial/set_aside/exercises/.*parquet$", 1),
    ("collect/python", r"\.partial/.*snapshot", 1),
    ("dedup/python", r"\.partial/duplicates/.*parquet$", 1),
    ("decontaminate/raw", r"\.partial/.", 2),
    ("annotate/python", r"\.partial/.", 1),
    ("decontaminate/grammar", r"\.partial/exercises/.*parquet$", 1),
    ("tokenize/tokenizer", r"\.partial/tokenizer", 1),
    ("pretrain/raw", r"\.partial/manifest\.json$", 1),
    ("filter/python", r"\.partial/documents/", 1),
    ("finetune/finetuned", r"\.partial/checkpoints/\d+$", 2),
    ("finetune/finetuned", r"\.partial/manifest\.json$", 1),
    ("finetune/raw+exercises", r"$", 1),
    ("select/finetuned", r"\.partial/choice\.json$", 1),
    ("export/finetuned", r"\.partial/model/README\.md$", 1),
    ("evaluate/finetuned", r"\.partial/scores\.json$", 1),
    ("report", r"\.partial/report\.json$", 1),
    ("report", r"$", 1),
)


def killed(label, pattern, count, command, workdir):
    """Runs a command and kills it as it names what it has written; returns the moment's path."""
    regex = re.escape(f"{workdir}/{label}") + pattern
    done = python("tests/killed_run.py", "os.rename", regex, count, *command, *MICRO, "--workdir", workdir, timeout=300)
    assert done.returncode == -9, f"{label}{pattern}: not killed\n{done.stderr}"
    (path,) = re.findall(r"killed at \S+ (\S+)", done.stderr)
    assert re.search(regex, path)


@pytest.mark.parametrize("moments", [MOMENTS, pytest.param(OTHERS, marks=pytest.mark.acceptance)])
def test_killed_in_every_stage(micro_run, tmp_path, moments):
    workdir = tmp_path / "run"
    if moments is MOMENTS:
        shutil.copytree(micro_run, workdir)
        for label in {label for label, *_ in moments}:
            shutil.rmtree(workdir / label)
    for moment in moments:
        killed(*moment, ["run"], workdir)
    phi_jax("run", *MICRO, "--workdir", workdir)
    assert identities(workdir) == identities(micro_run)


def ready_to_pretrain(micro_run, workdir):
    """A work directory that holds what stands before pretrain/raw."""
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")


def test_damaged_checkpoint_is_skipped_loudly(tmp_path, micro_run):
    """A truncated latest checkpoint costs its steps, never the run."""
    workdir = tmp_path / "run"
    ready_to_pretrain(micro_run, workdir)
    killed("pretrain/raw", r"\.partial/manifest\.json$", 1, ["pretrain", "--name", "raw"], workdir)
    latest = workdir / "pretrain" / "raw.partial" / "checkpoints" / "24"
    assert latest.is_dir()
    for path in latest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            os.truncate(path, 500)
    again = phi_jax("pretrain", *MICRO, "--name", "raw", "--workdir", workdir)
    assert re.search(r"warning: checkpoint .*/24: cannot be read", again.stderr)
    assert "resumed from the checkpoint of step 16" in again.stderr
    assert identities(workdir)["pretrain/raw"] == identities(micro_run)["pretrain/raw"]
