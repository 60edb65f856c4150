"""A fuzzer's inputs in parts of 1,000, which processes can share; a file in acceptance/ keeps what each part found."""

import datetime
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import filelock

PART = 1_000
PARTS = range(0, 10_000, PART)


def try_part(name, first, try_some):
    """Calls try_some(seeds) -> (counts by kind and outcome, failures) and puts the part into acceptance/<name>.json.

    Fails where an input did.
    """
    started, used = time.monotonic(), time.process_time()
    counts, failures = try_some(range(first, first + PART))
    found = {
        "inputs": PART, "outcomes": counts, "failures": failures,
        "seconds": round(time.monotonic() - started), "processor_seconds": round(time.process_time() - used),
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[1]:.1f}",
    }  # fmt: skip
    place = Path(__file__).parent / "acceptance" / f"{name}.json"
    with filelock.FileLock(Path(tempfile.gettempdir()) / f"phi_jax.{name}.lock"):
        parts = json.loads(place.read_text()) if place.exists() else {}
        parts[f"{first} to {first + PART - 1}"] = found
        place.write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n")
    assert failures == []
