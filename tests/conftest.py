"""Shared by all tests: the micro run, the data beside a development checkout, and what a skip may mean."""

import os

import pytest
from running import MICRO, ROOT, phi_jax

SHARED_DATA = ROOT.parent / "shared" / "data"

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
