"""10,000 values compared in the sandbox as in one process. Writes sandbox_values.json. Takes five minutes.

pytest tests/acceptance/test_sandbox_values_full.py
"""

import datetime
import json
import os
import platform
import time
from pathlib import Path

import pytest
from test_sandbox_values import LOOKS, fuzz, sandbox  # noqa: F401

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

INPUTS = 10_000
RESULT = Path(__file__).with_name("sandbox_values.json")


def test_ten_thousand(sandbox):  # noqa: F811
    start = time.monotonic()
    true = fuzz(sandbox, INPUTS)
    RESULT.write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
                "inputs": INPUTS,
                "looks": len(LOOKS),
                "true in both": true,
                "false or raised in both": INPUTS - true,
                "differing": 0,
                "seconds": round(time.monotonic() - start, 1),
            },
            indent=1,
        )
        + "\n"
    )
    assert true > INPUTS / 10
