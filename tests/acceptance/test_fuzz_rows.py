"""10,000 files of rows, most of them odd or damaged: each is read, set aside by row, or named in one line.

    pytest tests/acceptance/test_fuzz_rows.py

Writes fuzz_rows.json: what was tried, what came out of it, by reader, and the faults, which are none by now. The first
runs found: `renderings` of a problem that are null or no list, bytes among EvalPlus's inputs in Parquet (tracebacks),
and a task_id with a line break in it, quoted in an error (two lines). About 2 minutes of one core; tests/test_rows.py
does the same with 200.
"""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
INPUTS = 10_000

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def test_every_file_is_read_or_named():
    sys.path.insert(0, str(HERE.parent))
    import fuzz_rows

    found = fuzz_rows.run(INPUTS)
    (HERE / "fuzz_rows.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found["faults"] == []
    assert found["tried"]["inputs"] == INPUTS
    assert {f"edit: {edit}" for edit in fuzz_rows.EDITS} <= found["tried"].keys()
    for reader, came in found["came out"].items():
        assert min(came["row"], came["error"]) > INPUTS / 100, reader
