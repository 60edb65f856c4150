"""Damaged token shards, 200 of those that acceptance/test_fuzz_shards.py tries."""

from fuzz_shards import fuzz


def test_a_damaged_token_set_is_read_right_or_named(tmp_path):
    found = fuzz(tmp_path, seed=1, count=200)
    assert found["failures"] == []
    assert found["outcomes"]["error that names the file"] > 50
