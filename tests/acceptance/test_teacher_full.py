"""What issue 6 says must be shown of the teacher, at full size against the test server; writes teacher.json.

10,000 requests with faults, 20 kills live and 20 in batch mode, 100 runs against a cap, a planted key. Takes half an
hour on two cores. tests/test_teacher.py runs samples of it.
"""

import datetime
import importlib.metadata
import json
from pathlib import Path

import pytest
import teacher_checks

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]
RESULT = Path(__file__).with_name("teacher.json")


@pytest.fixture
def record():
    """Writes figures under a name into teacher.json, beside what the other tests wrote."""

    def write(name, figures):
        result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        result[name] = {"date": date, "openai": importlib.metadata.version("openai"), **figures}
        RESULT.write_text(json.dumps(dict(sorted(result.items())), indent=2) + "\n")

    return write


def test_ten_thousand_requests_with_faults(tmp_path, record):
    """Faults of every kind, in three of ten attempts."""
    figures = teacher_checks.with_faults(tmp_path, 10_000, seed=1, window=100)
    assert set(figures["faults_struck"]) == set(teacher_checks.FAULTS)
    record("faults", figures)


def test_the_ledgers_agree_where_every_reply_arrives(tmp_path, record):
    figures = teacher_checks.with_faults(tmp_path, 3000, seed=2, kinds=teacher_checks.ARRIVE, window=100)
    assert figures["server_dollars"] == figures["our_dollars"]
    record("faults, but every reply arrives", figures)


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_twenty_kills(tmp_path, mode, record):
    kills = teacher_checks.kills_of(mode, 20, seed=4)
    phases = teacher_checks.LIVE_PHASES if mode == "live" else teacher_checks.BATCH_PHASES
    assert {phase for phase, _ in kills} == set(phases)
    record(f"kills, {mode}", teacher_checks.with_kills(tmp_path, kills, mode=mode, count=600, seed=4))


def test_the_cap_is_never_passed(tmp_path, record):
    shares, ended = [], 0
    for seed in range(100):
        directory = tmp_path / str(seed)
        directory.mkdir()
        share, stopped = teacher_checks.with_cap(directory, seed)
        shares.append(share)
        ended += stopped
    assert ended > 20
    assert max(shares) > 0.5
    record("cap", {"runs": len(shares), "ended_by_the_cap": ended, "highest_share_of_it_charged": max(shares)})


def test_a_planted_key_is_nowhere(tmp_path, record):
    (tmp_path / "work").mkdir()
    record("key", teacher_checks.with_key(tmp_path / "work", 500))
