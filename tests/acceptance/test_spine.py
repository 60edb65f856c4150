"""The spine at full size: `configs/nano.py` within its bounds of time and memory. Writes spine.json beside itself.

    pytest tests/acceptance/test_spine.py

The bounds are for 2 idle cores: at most 8 minutes and 4 GiB for the run, 10 s for a run with nothing to do.
"""

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import ROOT, identities

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def timed(*arguments):
    """(seconds, largest resident set in GiB of any process so far, standard error) of one command."""
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "phi_jax.cli", *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True
    )
    seconds = time.monotonic() - begin
    assert done.returncode == 0, done.stderr
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, done.stderr


def test_nano_within_its_bounds(tmp_path):
    from phi_jax.artifact import git_revision, versions

    nano = ["--config", ROOT / "configs" / "nano.py", "--workdir", tmp_path / "nano"]
    run_seconds, gibibytes, _ = timed("run", *nano)
    first = identities(tmp_path / "nano")
    again_seconds, _, log = timed("run", *nano)
    assert log.count("whole, skipped") == 6
    help_seconds = min(timed("--help")[0] for _ in range(3))
    metrics = [json.loads(x) for x in (tmp_path / "nano/pretrain/base/metrics.jsonl").read_text().splitlines()]
    seconds = {p.parent.relative_to(tmp_path / "nano").as_posix(): json.loads(p.read_text())["seconds"]
               for p in (tmp_path / "nano").glob("**/manifest.json")}  # fmt: skip
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "system": platform.platform()},
        "versions": versions(),
        "git_revision": git_revision(),
        "run_seconds": round(run_seconds, 1),
        "run_again_seconds": round(again_seconds, 1),
        "help_seconds": round(help_seconds, 3),
        "peak_gibibytes": round(gibibytes, 2),
        "stage_seconds": seconds,
        "last_loss": metrics[-1]["loss"],
        "validation_loss": metrics[-1]["validation_loss"],
        "scores": json.loads((tmp_path / "nano/evaluate/scores.json").read_text()),
        "identities": first,
    }
    Path(__file__).with_name("spine.json").write_text(json.dumps(found, indent=2) + "\n")
    assert first == identities(tmp_path / "nano")
    assert run_seconds < 8 * 60
    assert gibibytes < 4
    assert again_seconds < 10
    assert help_seconds < 1


def _processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())
