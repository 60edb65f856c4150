"""What a pilot says of the whole: figures by hand, intervals that hold the truth as often as they say."""

import random
from collections import Counter

import pytest

from phi_jax.errors import UserError
from phi_jax.teacher.pilot import Sample, lines, project
from phi_jax.teacher.request import PICODOLLARS


def sample(costs, *, total=10_000, rejected=0, asked=None, seconds=60.0, batch=False):
    asked = len(costs) if asked is None else asked
    return Sample(total, costs, Counter({"tests fail": rejected}), asked, seconds, batch)


def test_figures_worked_out_by_hand():
    # 1, 2 and 3 millidollars: mean 2, standard deviation 1; 1.96 / sqrt(3) = 1.1316 around it.
    found = project(sample([PICODOLLARS // 1000 * n for n in (1, 2, 3)], rejected=1, seconds=36.0))
    assert found["dollars"] == pytest.approx((20, 20 - 11.316, 20 + 11.316), abs=1e-3)
    # Wilson's interval of 1 in 3, as statistics books have it.
    assert found["rejected"] == pytest.approx((1 / 3, 0.0615, 0.7923), abs=1e-4)
    hours, low, high = found["hours"]
    assert hours == pytest.approx(10_000 * 12 / 3600)
    assert low < hours < high


def test_the_interval_of_dollars_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(400):
        rng = random.Random(seed)
        costs = [int(rng.gammavariate(2, 1e9)) for _ in range(200)]  # mean 2e9: skewed, as token counts are
        found = project(sample(costs, total=1_000_000))
        _, low, high = found["dollars"]
        held += low <= 2e9 * 1_000_000 / PICODOLLARS <= high
    assert 0.91 <= held / 400 <= 0.98


def test_what_a_pilot_cannot_tell_it_does_not():
    costs = [10**9, 2 * 10**9]
    assert "hours" not in project(sample(costs, asked=0))
    assert "every reply was in the journal already" in "\n".join(lines("synthesize/teacher", sample(costs, asked=0)))
    assert "the Batch API answers within 24 hours" in "\n".join(lines("synthesize/teacher", sample(costs, batch=True)))
    with pytest.raises(UserError, match="--pilot 1: too few requests for an interval; use 200"):
        project(sample([5]))


def test_what_the_user_reads():
    text = lines("annotate/python", sample([PICODOLLARS // 100] * 100, rejected=7, seconds=10.0))
    assert text[0].startswith("annotate/python: pilot of 100 of 10,000 requests cost $1.0000")
    assert text[1] == "  dollars   $100.00 ($100.00 to $100.00)"
    assert text[2].startswith("  rejected  7.0% (")
    assert text[2].endswith("; tests fail: 7")
    assert text[3].startswith("  hours     0.28 (")
