"""Shared by all tests: the micro run, the data beside a development checkout, and what a skip may mean."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
MICRO = ["--config", str(ROOT / "configs" / "nano.py") + ":size=micro"]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_collection_modifyitems(config, items):
    """Acceptance tests take long: they run only when their folder or marker is named."""
    named = "acceptance" in config.option.markexpr or any("acceptance" in str(a) for a in config.args)
    for item in items:
        if "acceptance" in item.keywords and not named:
            item.add_marker(pytest.mark.skip(reason="acceptance: run by hand with `pytest tests/acceptance`"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With PHI_JAX_REQUIRE_ALL=1, as in .ci/run, a missing peer, tool or data file is a failure, not a skip."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("PHI_JAX_REQUIRE_ALL") == "1" and "acceptance" not in item.keywords:
        report.outcome = "failed"
        report.longrepr = f"skipped, but PHI_JAX_REQUIRE_ALL=1: {report.longrepr}"


def phi_jax(*arguments, cwd=ROOT, check=True, env=None, timeout=600):
    """Runs the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "phi_jax.cli", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})},
    )  # fmt: skip
    if check and done.returncode:
        pytest.fail(f"phi-jax {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def identities(workdir):
    """Label -> identity of every artifact in a work directory."""
    import json

    manifests = [json.loads(p.read_text()) for p in sorted(Path(workdir).glob("**/manifest.json"))]
    return {f"{m['stage']}/{m['name']}": m["identity"] for m in manifests}


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory):
    """The work directory of an undisturbed micro run; copy it before changing anything in it."""
    workdir = tmp_path_factory.mktemp("micro") / "run"
    phi_jax("run", *MICRO, "--workdir", workdir)
    return workdir


@pytest.fixture(scope="session")
def shared_data():
    """HumanEval, MBPP and the GPT-2 vocabulary, which lie beside a development checkout only."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data (HumanEval, MBPP, GPT-2 vocabulary), which the project must not contain")
    return SHARED_DATA
