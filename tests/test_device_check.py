"""launch/device_check on a CPU: what it says of wrong results, how it goes on, and what it does without."""

import functools
import importlib
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from device_checks import FOLDER, Check, blocked
from running import ROOT

from phi_jax.bench.train_speed import case_of
from phi_jax.config import load
from phi_jax.model import attention
from phi_jax.model.attention import attend_splash


@pytest.fixture
def parts(monkeypatch):
    """launch/device_check/parts.py."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("parts")
    del sys.modules["parts"]


def test_the_shapes_are_those_of_the_configs_without_ml_collections(parts, monkeypatch):
    for name in ("phi_1", "phi_1_small"):
        expected = case_of(load(["--config", f"{ROOT}/configs/{name}.py:attention=cudnn"]))
        expected["model"]["attention"] = "xla"
        expected["training"] |= {"microbatches": 1, "global_batch_size": 6}
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "ml_collections", types.SimpleNamespace(ConfigDict=parts._ConfigDict))
            assert parts._case(False, name, 6) == expected


def test_a_kernel_that_takes_no_notice_of_documents_is_found(parts, monkeypatch):
    case = parts._case
    monkeypatch.setattr(parts, "_case", lambda tiny, **changes: case(tiny, **{"attention": "splash", **changes}))
    monkeypatch.setattr(parts, "_seconds", lambda *_: 0.0)
    monkeypatch.setitem(attention._PLATFORMS, "splash", ("cpu",))
    monkeypatch.setitem(attention.FUSED, "splash", functools.partial(attend_splash, interpret=True))
    figures = {}
    parts.attention(figures, True)
    assert "wrong" not in figures
    assert sum(name.startswith("splash, ") for name in figures) == 2 * (4 + 1)

    def blind(q, k, v, segments):
        return attend_splash(q, k, v, None, interpret=True)

    monkeypatch.setitem(attention.FUSED, "splash", blind)
    parts.attention(figures, True)
    assert [line.split("[")[0] for line in figures["wrong"]] == ["splash, documents"] * 4


def test_a_wrong_choice_and_a_wrong_save_are_found(parts, monkeypatch):
    class OneBeside(parts.Sampler):
        def complete(self, requests):
            for i, made in super().complete(requests):
                yield i, made._replace(tokens=[*made.tokens[:-1], (made.tokens[-1] + 1) % 512])

    figures = {}
    monkeypatch.setattr(parts, "Sampler", OneBeside)
    parts.sampler(figures, True)
    assert len(figures["wrong"]) == 1

    class Rounded(parts.Checkpoints):
        def restore_latest(self, state):
            step, restored, record = super().restore_latest(state)
            restored["params"]["head"]["kernel"] *= np.float32(1 + 2**-20)
            return step, restored, record

    monkeypatch.setattr(parts, "Checkpoints", Rounded)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        parts.save({}, True)


def test_a_killed_check_goes_on_and_a_bad_part_is_its_result(tmp_path):
    env = {"PYTHONPATH": os.pathsep.join([blocked(tmp_path / "blocked"), os.environ.get("PYTHONPATH", "")])}
    parts = ("--limit", "300", "--parts", "step.phi_1.none.4", "torch_step", "ceilings")
    check = Check(tmp_path, *parts, env=env)
    assert check.until("ceilings: begun"), check.said
    check.child()
    check.kill()

    check = Check(tmp_path, *parts, env=env)
    code, found = check.end()
    assert (code, list(found)) == (0, ["step.phi_1.none.4", "torch_step", "ceilings"])
    assert check.said == "ceilings: begun\nceilings: done\n"
    assert found["torch_step"]["result"].startswith("skipped: No module named 'torch'")
    assert {"versions", "date", "xla_flags", "devices", "seconds"} < set(found["ceilings"])
    assert found["ceilings"]["devices"] == "1 x cpu"
    assert min(found["ceilings"]["figures"].values()) > 0
    step = found["step.phi_1.none.4"]["figures"]
    assert step["tokens_per_second"] * step["step_seconds"] == pytest.approx(4 * 128)
    assert step["estimated_peak_memory_bytes"] > 16 * step["parameters"]

    # Nothing is left to do; what was not begun goes first; a part may be stopped, or abort.
    check = Check(tmp_path, *parts, env=env)
    assert (check.end(), check.said) == ((0, found), "")
    check = Check(tmp_path, "--limit", "0.3", "--parts", "save", "sampler")
    assert check.end()[0] == 1
    assert check.said.count("stopped after 0.3 s") == 2
    check = Check(tmp_path, "--parts", "gradients", "save")
    for name in ("gradients", "save"):
        assert check.until(f"{name}: begun")
        os.kill(check.child(), signal.SIGABRT)
    code, found = check.end()
    assert (code, found["save"]["result"].endswith("(exit code -6; below 0: the signal)")) == (1, True)
    assert found["step.phi_1.none.4"]["figures"] == step


def test_no_device_is_said_once_and_ends_the_check(tmp_path):
    env = {**os.environ, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    command = [str(FOLDER / "run"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    said = ["attention: begun", "attention: failed: the devices here are CPUs; add --tiny for a rehearsal"]
    assert (done.returncode, done.stderr.splitlines()) == (1, said)


def test_what_makes_no_sense_is_one_line(tmp_path):
    for text in ("{}", "[", '{"phi_1": {}}'):
        (tmp_path / "out.json").write_text(text)
        check = Check(tmp_path)
        check.until("(?!)")
        assert check.process.wait() == 1
        assert check.said.startswith("device_check: error: --out ")
        assert check.said.endswith("no result of a device check of these shapes; name another file\n")
        assert (tmp_path / "out.json").read_text() == text
