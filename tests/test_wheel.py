"""The built wheel holds all that a run needs but the config, which is then given by path."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from running import ROOT

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    wheels = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("building a wheel needs setuptools from the package index")
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def run(site, cwd, *arguments):
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# One stage of each room; test_what_the_wheel_holds compares every file with its source.
SOME = ("synthesize/grammar", "annotate/python", "tokenize/tokenizer", "export/base", "evaluate/base", "report")


@pytest.mark.parametrize("stages", [SOME, pytest.param((), marks=pytest.mark.acceptance)])
def test_a_run_from_the_wheel(site, tmp_path, micro_run, stages):
    """Of some stages, beside what a run from the source has left; by hand, of all."""
    code = "import phi_jax; print(phi_jax.__file__)"
    assert run(site, tmp_path, "-c", code).startswith(str(site))
    config = f"{ROOT}/configs/nano.py:size=micro"
    if stages:
        shutil.copytree(micro_run, tmp_path / "w")
    for label in stages:
        shutil.rmtree(tmp_path / "w" / label)
    run(site, tmp_path, "-m", "phi_jax.cli", "run", "--config", config, "--workdir", tmp_path / "w")
    ours, theirs = (
        {p.parent.relative_to(w): json.loads(p.read_text())["identity"] for p in w.glob("**/manifest.json")}
        for w in (micro_run, tmp_path / "w")
    )
    assert ours == theirs


def test_what_the_wheel_holds(site):
    sources = [p for p in (ROOT / "phi_jax").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert all((site / p.relative_to(ROOT)).read_bytes() == p.read_bytes() for p in sources)
    names = {p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()}
    data = {p.relative_to(ROOT).as_posix() for p in sources}
    assert {"phi_jax/evaluation/unconventional.jsonl", "phi_jax/py.typed"} <= data
    assert {f"phi_jax/report/templates/{name}" for name in ("page.html.j2", "parts.html.j2", "page.css")} <= data
    assert not [n for n in names if n.startswith(("tests", "configs", "launch"))]
    (info,) = (n for n in names if n.endswith("METADATA"))
    text = (site / info).read_text()
    assert "License-Expression: Apache-2.0" in text
    for extra in ("gpu", "cuda12", "tpu", "plan", "hf", "vllm", "dev", "peers"):
        assert f"Provides-Extra: {extra}\n" in text
    assert any(n.endswith("licenses/LICENSE") for n in names)
