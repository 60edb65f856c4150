"""SIGKILL at every moment of the life of a batch, in seeded order, on one journal: nothing asked twice or uncounted."""

import random

import pytest
from killed_batch import Exercise, requests
from test_teacher_batch import MOMENTS, killed_again_and_again, times_asked

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_every_moment(tmp_path, seed):
    """The moments of a plan's making first: those of its end must find open plans, whatever the order among them."""
    rng = random.Random(seed)
    moments = list(MOMENTS)
    making, ending = moments[:6], moments[6:]
    rng.shuffle(making)
    rng.shuffle(ending)
    ledger, seen = killed_again_and_again(tmp_path, making + ending, count=600, size=50)
    assert [moment for moment, *_ in seen] == making + ending
    assert times_asked(ledger) == {request.key: 1 for request in requests(600, Exercise)}
