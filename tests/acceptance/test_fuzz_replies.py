"""10,000 strange replies of servers and 2,000 damaged journals; writes fuzz_replies.json.

What must hold of each is in tests/llm_replies.py. tests/test_teacher_replies.py runs the first of them.
"""

import datetime
import importlib.metadata
import json
import time
from pathlib import Path

import llm_replies
import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]
RESULT = Path(__file__).with_name("fuzz_replies.json")


def record(name, counts, began):
    """Writes how many came out how into fuzz_replies.json, beside what the other tests wrote."""
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    result[name] = {
        "date": date,
        "openai": importlib.metadata.version("openai"),
        "inputs": counts.total(),
        "ends": dict(sorted(counts.items())),
        "seconds": round(time.monotonic() - began),
    }
    RESULT.write_text(json.dumps(dict(sorted(result.items())), indent=2) + "\n")


@pytest.mark.parametrize("start", range(0, 10_000, 1000))
def test_ten_thousand_strange_replies(start):
    began = time.monotonic()
    counts = llm_replies.run_cases(range(start, start + 1000))
    assert counts.total() == 1000
    record(f"replies {start} to {start + 999}", counts, began)


def test_two_thousand_damaged_journals():
    began = time.monotonic()
    counts = llm_replies.damaged_journals(range(2000))
    assert counts.total() == 2000
    record("journals", counts, began)
