"""launch/device_check on a CPU: what it says of a wrong kernel, how it goes on, and what it does without."""

import os
import signal
import sys

import pytest
from device_checks import FOLDER, Check, blocked
from running import ROOT

from phi_jax.model.attention import attend_splash
from phi_jax.parallel import sharded_attention


@pytest.fixture
def modules(monkeypatch):
    """case and correctness of launch/device_check."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import case
    import correctness

    yield case, correctness
    for name in ("case", "correctness"):
        del sys.modules[name]


def test_the_shapes_are_those_of_the_configs_without_ml_collections(modules):
    from phi_jax.bench.train_speed import case_of
    from phi_jax.config import load

    for name in ("phi_1", "phi_1_small"):
        expected = case_of(load(["--config", f"{ROOT}/configs/{name}.py:attention=cudnn"]))
        expected["training"]["microbatches"] = 1
        assert modules[0].case(name, "phi_1", "cudnn") == expected


def test_a_kernel_that_takes_no_notice_of_documents_is_found(modules, monkeypatch):
    case, correctness = modules
    whole = case.case("phi_1", "tiny", "splash")
    found, wrong = correctness.attention(whole, interpret=True)
    assert wrong == []
    assert set(found["documents"]) == {"splash", "xla", correctness.BLIND}

    def blind(q, k, v, segments, *, interpret):
        return attend_splash(q, k, v, None, interpret=interpret)

    monkeypatch.setattr(sharded_attention, "attend_splash", blind)
    _, wrong = correctness.attention(whole, interpret=True)
    assert {line.split(" is off")[0] for line in wrong} == {
        f"documents, splash: {array}" for array in ("heads", "dq", "dk", "dv")
    }


def test_a_killed_check_goes_on_and_a_bad_part_is_its_result(tmp_path):
    env = {"PYTHONPATH": os.pathsep.join([blocked(tmp_path / "blocked"), os.environ.get("PYTHONPATH", "")])}
    parts = ("--parts", "step", "torch", "matmul", "export", "--limit", "300")
    check = Check(tmp_path, *parts, env=env)
    assert check.until("matmul: begins"), check.said
    check.child()
    check.kill()

    check = Check(tmp_path, *parts, env=env)
    code, found = check.end()
    assert (code, list(found)) == (0, ["step", "torch", "matmul", "export"])
    assert "step: begins" not in check.said
    assert found["torch"]["result"] == found["export"]["result"] == "skipped: no torch"
    assert found["step"]["device"] == {
        "platform": "cpu", "kind": "cpu", "devices": 1, "processes": 1, "memory_bytes": None
    }  # fmt: skip
    step = found["step"]["figures"]
    assert step["tokens_per_second"] * step["step_seconds"] == pytest.approx(step["tokens_per_step"])
    assert (step["kernel"], step["remat"], step["rows_a_device"]) == ("xla", "none", 8)
    assert step["estimated_peak_memory_bytes"] > 16 * step["parameters"]
    assert all(product["tflops"] > 0 for product in found["matmul"]["figures"]["products"].values())
    assert found["matmul"]["figures"]["gigabytes_per_second"] > 0

    # Nothing is left to do; a part done again may be stopped, or abort.
    assert Check(tmp_path, *parts, env=env).end() == (0, found)
    code, found = Check(tmp_path, "--again", "matmul", "--parts", "matmul", "--limit", "0.3").end()
    assert (code, found["matmul"]["result"]) == (1, "stopped after 0.3 s")
    check = Check(tmp_path, "--again", "matmul", "--parts", "matmul")
    os.kill(check.child(), signal.SIGABRT)
    code, found = check.end()
    assert code == 1
    assert found["matmul"]["result"].startswith("ended with exit code -6: ")
    assert found["step"]["figures"] == step


def test_what_makes_no_sense_is_one_line(tmp_path):
    (tmp_path / "out.json").write_text("{}")
    check = Check(tmp_path)
    assert check.end()[0] == 1
    assert check.said.startswith("device_check: error: --out ")
    assert check.said.endswith("no result of a device check; name another file\n")
    assert (tmp_path / "out.json").read_text() == "{}"
