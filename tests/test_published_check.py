"""`launch/published_check` against a stand-in for the Hub: tiny models, all parts, what fails, and going on."""

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from published import CODEGEN, PHI, codegen_shapes, hub, phi_shapes, publish, random_tensors
from running import ROOT
from safetensors.numpy import load_file, save_file

from phi_jax.sandbox import support

HUMANEVAL = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f'def f(x):\n    """{n}"""\n',
        "entry_point": "f",
        "test": "def check(f):\n    assert f(1) == 2\n",
        "canonical_solution": "    return x + 1\n",
    }
    for n in range(3)
]
MBPP = [
    {"task_id": n, "text": "Adds 1.", "code": "def f(x):\n    return x + 1\n", "test_list": ["assert f(1) == 2"]}
    for n in range(10, 14)
]
PHI_1, PHI_1_5, CODEGEN_350M = "microsoft/phi-1", "microsoft/phi-1_5", "Salesforce/codegen-350M-mono"
PARTS = ["fetch", "lint", "import", "humaneval", "mbpp", "export", "transformers"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with what is published: `phi`, `codegen` as it is on the Hub, in a pickle, and two benchmarks."""
    place = tmp_path_factory.mktemp("published_check")
    publish(place / "phi", PHI, random_tensors(phi_shapes(PHI)))
    publish(place / "codegen", CODEGEN, random_tensors(codegen_shapes(CODEGEN), seed=1))
    (place / "phi" / "modeling_phi.py").write_text("code that nobody asked for")
    for name, rows in (("humaneval", HUMANEVAL), ("mbpp", MBPP)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def check(place, out, *more, served, without=("torch", "transformers")):
    """(what the command did, the models in its JSON, what the Hub was asked). without: modules that are not there."""
    for name in without:
        (out.parent / f"{name}.py").write_text("raise ImportError('not installed')")
    with hub({name: place / files for name, files in served.items()}) as (url, asked):
        files = [f"--{name}={place / name}.jsonl" for name in ("humaneval", "mbpp")]
        done = subprocess.run(
            [ROOT / "launch/published_check/run", "--out", out, "--max-new-tokens=4", "--slots=2", *files, *more],
            capture_output=True, text=True, timeout=300,
            # HF_HUB_OFFLINE: tests of peers set it in the same process.
            env={**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(out.parent),
                 "PYTHON": sys.executable},
        )  # fmt: skip
    record = out / "published_check.json"
    return done, json.loads(record.read_text())["models"] if record.exists() else {}, asked


def said(done, name):
    """What is said of each part of a model that was run."""
    return re.findall(rf"^{name}: \w+: (.*)$", done.stderr, re.MULTILINE)


def test_all_parts_and_a_model_that_is_not_there(place, tmp_path):
    served = {PHI_1: "phi", CODEGEN_350M: "codegen"}
    done, models, asked = check(place, tmp_path / "out", served=served)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count(": error: ") == 1
    (failure,) = said(done, PHI_1_5)
    assert failure.startswith("error: ")
    assert "404" in failure
    fetched = {path.rpartition("/")[2] for path in asked if f"{PHI_1}/resolve/" in path}
    assert fetched == {path.name for path in (place / "phi").iterdir()} - {"modeling_phi.py"}

    digest = hashlib.sha256((place / "humaneval.jsonl").read_bytes()).hexdigest()
    assert f"sha256 {digest}, NOT as known: b796127e" in done.stdout
    assert said(done, PHI_1) == [
        "commit aaaaaaaa", "2 warnings", "46,144 numbers", "0.0 (50.6 [6.1, 93.9]: outside)",
        "0.0 (55.5 [6.1, 93.9]: outside)", "33/33 tensors, 6/7 files", "skipped",
    ]  # fmt: skip
    assert said(done, CODEGEN_350M)[1] == "no rules"
    assert said(done, CODEGEN_350M)[3:] == [
        "0.0 (12.8 [0.0, 79.2]: inside)",
        "0.0",
        "21/21 tensors, 6/7 files",
        "skipped",
    ]
    assert [*models[PHI_1]] == PARTS
    exported = models[PHI_1]["export"]
    assert (exported["differing"], exported["left_out"]) == ([], [])
    assert "config.json" not in exported["same_files"]
    assert "merges.txt" in exported["same_files"]

    # Once more: what failed is tried again, and nothing else is asked for or done.
    again, after, asked = check(place, tmp_path / "out", served={})
    assert again.returncode == 1
    assert asked
    assert {path for path in asked if PHI_1_5 not in path} == set()
    assert (after[PHI_1], after[CODEGEN_350M]) == (models[PHI_1], models[CODEGEN_350M])
    assert [len(said(again, name)) for name in (PHI_1, PHI_1_5, CODEGEN_350M)] == [0, 1, 0]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "launch" / "published_check"))
    return importlib.import_module("published_check")


def test_results_that_were_asked_for_otherwise_are_not_mixed(place, tmp_path, module, monkeypatch, capsys):
    (tmp_path / "published_check.json").write_text('{"asked": {"limit": 5}, "models": {}}')
    files = [f"--{name}={place / name}.jsonl" for name in ("humaneval", "mbpp")]
    sandbox = "none" if support().missing else "full"
    monkeypatch.setattr(sys, "argv", ["published_check", f"--out={tmp_path}", f"--sandbox={sandbox}", *files])
    assert module.main() == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        f"published_check: error: {tmp_path}/published_check.json: was asked for otherwise: humaneval "
    )
    assert "limit 5 -> 0" in said


@pytest.mark.parametrize("changed", ["nothing", "a bit", "a dtype", "a name", "a field"])
def test_an_export_that_is_another_is_told(place, tmp_path, module, changed):
    options = argparse.Namespace(out=tmp_path)
    check = module.Check("owner/model", options, {}, {"import": {"dtype": "float16"}})
    for part in ("published", "exported"):
        shutil.copytree(place / "phi", check.path(part))
    weights, config = (check.path("exported") / name for name in ("model.safetensors", "config.json"))
    tensors, name = load_file(weights), "model.layers.1.mlp.fc1.weight"
    if changed == "a bit":
        tensors[name].view(np.uint16)[3, 4] ^= 1
    elif changed == "a dtype":
        tensors[name] = tensors[name].astype(np.float32)
    elif changed == "a name":
        name = f"{name}s"
        tensors[name] = tensors.pop(name[:-1])
    elif changed == "a field":
        config.write_text(json.dumps({**PHI, "rope_theta": 1e6}))
    save_file(tensors, weights)
    found = module.export_it(check)
    wrong = changed not in ("nothing", "a field")
    assert (found["wrong"], found["differing"]) == (wrong, [name] if wrong else [])
    assert ("config.json" in found["same_files"]) == (changed != "a field")
