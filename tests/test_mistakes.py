"""A user's mistakes: one clear line, exit code not 0, no traceback, and everything left as it was."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest
from running import MICRO, ROOT, phi_jax


def snapshot(directory):
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file() and p.name not in (".lock", "config.json")
    }


def fails(*arguments, **kwargs):
    done = phi_jax(*arguments, check=False, **kwargs)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("phi-jax: error: ")]
    assert len(errors) == 1
    assert done.stderr.rstrip().splitlines()[-1] == errors[0]
    return errors[0]


@pytest.fixture
def finished(micro_run, tmp_path):
    return shutil.copytree(micro_run, tmp_path / "run")


def test_missing_config(tmp_path):
    assert "configs/nope.py: no such file" in fails("run", "--config", "configs/nope.py", "--workdir", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_unknown_field(tmp_path):
    line = fails("run", *MICRO, "--config.training.stepz=3", "--workdir", tmp_path / "w")
    assert 'Did you mean "steps"' in line
    assert not (tmp_path / "w").exists()


def test_a_sweep_is_no_experiment(tmp_path):
    line = fails("run", "--config", "configs/sweeps/seeds.py", "--workdir", tmp_path / "w")
    assert "it has no get_config(), so it is no experiment" in line


def test_workdir_is_a_file(tmp_path):
    (tmp_path / "w").write_text("precious")
    assert "is a file; name a directory" in fails("run", *MICRO, "--workdir", tmp_path / "w")
    assert (tmp_path / "w").read_text() == "precious"


def test_empty_corpus(tmp_path):
    (tmp_path / "nothing").mkdir()
    line = fails("run", *MICRO, f"--config.collect.sources=('{tmp_path}/nothing',)", "--workdir", tmp_path / "w")
    assert "nothing" in line
    assert not (tmp_path / "w" / "collect" / "python").exists()


def test_missing_source(tmp_path):
    line = fails("collect", *MICRO, f"--config.collect.sources=('{tmp_path}/gone',)", "--workdir", tmp_path / "w")
    assert "gone" in line


def test_corrupt_shard(finished):
    shard = next(p for p in (finished / "tokenize" / "raw").rglob("*array_record*") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    before = snapshot(finished)
    line = fails("run", *MICRO, "--config.training.learning_rate=1e-4", "--workdir", finished)
    assert shard.name in line
    assert "checksum differs from manifest.json" in line
    assert "phi-jax tokenize" in line
    assert snapshot(finished) == before


def test_damaged_checkpoint(finished):
    parameters = finished / "pretrain/raw/checkpoints/24/params"
    target = max((p for p in parameters.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(target, 100)
    before = snapshot(finished)
    line = fails("run", *MICRO, "--config.export.dtype=bfloat16", "--workdir", finished)
    assert "pretrain/raw: checkpoints/" in line
    assert "checksum differs" in line
    assert snapshot(finished) == before
    line = fails("export", "--checkpoint", finished / "pretrain/raw", "--out", finished.parent / "out")
    assert "pretrain/raw" in line
    assert not (finished.parent / "out").exists()


def test_export_onto_something_that_is_there(finished, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    line = fails("export", "--checkpoint", finished / "pretrain/raw", "--out", tmp_path / "out")
    assert str(tmp_path / "out") in line
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_uneven_microbatches(finished):
    line = fails("run", *MICRO, "--config.training.microbatches=3", "--workdir", finished)
    assert "config.training, the rules of config.models.raw: " in line
    assert "global_batch_size=4 cannot be cut into microbatches=3" in line


def test_a_mesh_of_other_devices(micro_run, tmp_path):
    shutil.copytree(micro_run / "tokenize" / "raw", tmp_path / "w" / "tokenize" / "raw")
    line = fails("pretrain", *MICRO, "--config.training.mesh=(4,1,1)", "--name", "raw", "--workdir", tmp_path / "w")
    assert "config.training.mesh=(4, 1, 1)" in line
    assert "which is 2 here (cpu)" in line


@pytest.mark.parametrize("field", ["model.attention=cudnn", "model.remat=sometimes", "model.compute_dtype=int8"])
def test_what_cannot_be_had_is_an_error(finished, field):
    assert field.partition("=")[2] in fails("run", *MICRO, f"--config.{field}", "--workdir", finished)


def test_status_of_nothing(tmp_path):
    assert "no run there yet" in fails("status", "--workdir", tmp_path / "w")


def test_unknown_instance(tmp_path):
    assert "there are: raw, base" in fails("pretrain", *MICRO, "--workdir", tmp_path / "w", "--name", "other")


def test_model_that_is_none(tmp_path):
    (tmp_path / "m").mkdir()
    assert str(tmp_path / "m") in fails("sample", "--model", tmp_path / "m", "--prompt", "x")


def test_samples_that_name_no_problem(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"task_id": "nowhere/0", "completion": "pass"}\n')
    line = fails("score", "--samples", tmp_path / "s.jsonl", "--out", tmp_path / "out")
    assert "s.jsonl" in line
    assert "nowhere/0" in line


def test_wrong_usage_has_its_own_exit_code():
    assert phi_jax("fly", check=False).returncode == 2


def pages_of(directory):
    """Bytes of the pages of 4 KiB that its files and folders take on a tmpfs."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in directory.rglob("*"))


def fails_on_a_disk_that_shrinks(mount, size, command):
    """The line of the error. size: bytes that the disk has from the stage's first line on."""
    words = [sys.executable, "-m", "phi_jax.cli", *map(str, command), "--verbose"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert any(line.endswith(": starting\n") for line in process.stderr)
    subprocess.run(["mount", "-o", f"remount,size={size // 1024}k", str(mount)], check=True)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "Traceback" not in error
    return error.splitlines()[-1]


@pytest.mark.system
@pytest.mark.parametrize(
    ("label", "inputs"),
    [
        ("collect/python", ()),
        ("synthesize/grammar", ()),
        ("decontaminate/grammar", ("synthesize/grammar",)),
        ("tokenize/raw", ("decontaminate/raw", "tokenize/tokenizer")),
        ("pretrain/raw", ("tokenize/raw",)),
    ],
)
def test_full_disk(tmp_path, micro_run, label, inputs):
    """A small tmpfs fills up in the stage; with room again, the stage ends as if nothing had been."""
    from running import identities

    stage, _, name = label.partition("/")
    command = [stage, *MICRO, "--name", name, "--workdir", tmp_path / "small" / "w"]
    mount = tmp_path / "small"
    mount.mkdir()
    room = sum(map(pages_of, (micro_run / i for i in inputs))) + pages_of(micro_run / label) // 3
    # A training that cannot fit is refused before it starts: there the disk shrinks once it has begun.
    first = room // 1024 if stage != "pretrain" else 400 * 1024
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={first}k", "tmpfs", str(mount)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small tmpfs needs root: run as root, or in a container with CAP_SYS_ADMIN")
    try:
        for i in inputs:
            shutil.copytree(micro_run / i, mount / "w" / i)
        if stage == "pretrain":
            line = fails_on_a_disk_that_shrinks(mount, room, command)
        else:
            line = fails(*command, cwd=ROOT)
        assert "no space left on the disk" in line
        assert not (mount / "w" / label / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=400m", str(mount)], check=True)
        phi_jax(*command)
        assert identities(mount / "w")[label] == identities(micro_run)[label]
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)
