"""10,000 model directories with one thing wrong, from tests/damaged_models.py. Writes fuzz_weights.json.

pytest -n 2 tests/acceptance/test_fuzz_weights_full.py
"""

import damaged_models
import pytest
from fuzz_parts import PARTS, try_part

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("first", PARTS)
def test_each_is_read_right_or_refused(tmp_path, first):
    originals, damaged = damaged_models.make_originals(tmp_path), tmp_path / "damaged"
    damaged.mkdir()
    try_part("fuzz_weights", first, lambda seeds: damaged_models.try_all(originals, damaged, seeds, import_every=25))
