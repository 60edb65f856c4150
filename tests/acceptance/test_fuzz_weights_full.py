"""10,000 model directories with one thing wrong, from tests/damaged_models.py. Writes fuzz_weights.json.

pytest tests/acceptance/test_fuzz_weights_full.py
"""

import datetime
import json
import os
import platform
import time
from pathlib import Path

import damaged_models
import pytest

INPUTS, MINUTES = 10_000, 40
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]


def test_each_is_read_right_or_refused(tmp_path):
    """As many as MINUTES allow; the file says how many."""
    originals, counts, failures, tried = damaged_models.make_originals(tmp_path), {}, [], 0
    (tmp_path / "damaged").mkdir()
    started, used = time.monotonic(), time.process_time()
    while tried < INPUTS and time.monotonic() - started < 60 * MINUTES:
        found, wrong = damaged_models.try_all(
            originals, tmp_path / "damaged", range(tried, tried + 100), import_every=25
        )
        failures += wrong
        for kind, outcomes in found.items():
            of_kind = counts.setdefault(kind, {})
            for outcome, count in outcomes.items():
                of_kind[outcome] = of_kind.get(outcome, 0) + count
        tried += 100
        result = {
            "inputs": tried, "outcomes": counts, "failures": failures,
            "seconds": round(time.monotonic() - started), "processor_seconds": round(time.process_time() - used),
            "date": datetime.date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
            f"load {os.getloadavg()[1]:.1f}",
        }  # fmt: skip
        path = Path(__file__).with_name("fuzz_weights.json")
        path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    assert failures == []
    assert tried == INPUTS
