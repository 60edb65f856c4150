"""Shared by all tests: the micro run, the data beside a development checkout, and what a skip may mean."""

import os
from pathlib import Path

import filelock
import hypothesis
import pytest
from running import MICRO, ROOT, UNOPTIMISED, python

SHARED_DATA = ROOT.parent / "shared" / "data"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("XLA_FLAGS", UNOPTIMISED)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Nothing is asserted of speed: an example may take what it takes on a busy machine.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def no_device_count_from_another_test():
    """A command that ran in this process sets it, and it goes before XLA_FLAGS, by which a test asks for eight."""
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)


# Files that take minutes start first: one that is left for the end has a core to itself, and the other idles. The first
# needs no micro run, which the second makes meanwhile.
LONG = (
    "invariance", "kills", "slurm", "distributed", "training", "readme", "sweeps", "pipeline", "faults", "plan", "open",
)  # fmt: skip


def pytest_configure(config):
    """Files in the order below, not, as pytest-xdist has it, those of the most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config, items):
    """Acceptance tests take long: they run only when their folder or marker is named."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
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


_RUN_AND_NOTE_READS = """
import json, sys
from phi_jax import config, fields, pipeline
chosen = config.load(sys.argv[2:])
pipeline.run(chosen, sys.argv[1])
with open(sys.argv[1] + ".unread.json", "w") as file:
    json.dump(sorted({path for path, _ in fields.leaves(chosen.to_dict())} - chosen.reads), file)
"""


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory):
    """The work directory of an undisturbed micro run; copy it before changing anything in it.

    Beside it lies `run.unread.json`, the fields of the config that the run did not read. All workers of one `pytest -n`
    share it: the first that wants it runs it. PHI_JAX_MICRO_RUN names one that is there already.
    """
    if given := os.environ.get("PHI_JAX_MICRO_RUN"):
        return Path(given)
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    workdir = root / "micro" / "run"
    unread = workdir.with_name("run.unread.json")  # written last
    with filelock.FileLock(root / "micro.lock"):
        if not unread.exists():
            done = python("-c", _RUN_AND_NOTE_READS, workdir, *MICRO)
            assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="session")
def shared_data():
    """HumanEval, MBPP and the GPT-2 vocabulary, which lie beside a development checkout only."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data (HumanEval, MBPP, GPT-2 vocabulary), which the project must not contain")
    return SHARED_DATA
