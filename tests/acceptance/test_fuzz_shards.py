"""10,000 damaged token sets: each is read right, or ends in one line that names the file. Writes fuzz_shards.json.

    pytest tests/acceptance/test_fuzz_shards.py

What was damaged so that other tokens come out (a shard of another run in its place) is noticed by the manifest: by
size and time before a stage, by hash in `status --verify`. About 4 minutes on one core.
"""

import json
from pathlib import Path

import pytest
from fuzz_shards import fuzz

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def test_a_damaged_token_set_is_read_right_or_named(tmp_path):
    found = fuzz(tmp_path, seed=1, count=10_000)
    Path(__file__).with_name("fuzz_shards.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found["failures"] == []
