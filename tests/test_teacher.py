"""The teacher against a real server with faults, on samples; acceptance/test_teacher_full.py has the full sizes."""

import teacher_checks


def test_each_request_ends_and_is_paid_for(tmp_path):
    figures = teacher_checks.with_faults(tmp_path, 120, seed=5)
    assert len(figures["faults_struck"]) > 10


def test_the_ledgers_agree_where_every_reply_arrives(tmp_path):
    figures = teacher_checks.with_faults(tmp_path, 60, seed=6, kinds=teacher_checks.ARRIVE)
    assert figures["asked"] > 60


def test_a_kill_costs_no_reply_that_arrived(tmp_path):
    """Live; test_teacher_batch.py kills batches."""
    teacher_checks.with_kills(tmp_path, [("charged", 3), ("settling", 5)], mode="live", count=30, seed=7)


def test_the_cap_holds(tmp_path):
    shares, ended = [], 0
    for seed in range(2):
        (tmp_path / str(seed)).mkdir()
        share, stopped = teacher_checks.with_cap(tmp_path / str(seed), seed)
        shares.append(share)
        ended += stopped
    assert ended > 0
    assert max(shares) > 0


def test_a_key_is_nowhere(tmp_path):
    (tmp_path / "work").mkdir()
    teacher_checks.with_key(tmp_path / "work", 15)
