"""10,000 saves of a training with one thing wrong, from tests/damaged_checkpoints.py. Writes fuzz_checkpoints.json.

pytest -n 2 tests/acceptance/test_fuzz_checkpoints.py
"""

import damaged_checkpoints
import pytest
from fuzz_parts import PARTS, try_part

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("first", PARTS)
def test_each_is_read_right_or_refused(tmp_path, first):
    originals = damaged_checkpoints.make_originals(tmp_path)
    (tmp_path / "damaged").mkdir()
    try_part(
        "fuzz_checkpoints", first, lambda seeds: damaged_checkpoints.try_all(originals, tmp_path / "damaged", seeds)
    )
