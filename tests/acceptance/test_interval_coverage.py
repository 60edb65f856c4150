"""How often the bootstrap interval of pass@k holds the truth, beside the plain percentiles. Writes coverage.json.

    pytest tests/acceptance/test_interval_coverage.py

A benchmark is problems whose chance to be solved is drawn from a Beta distribution; a run, samples of each. The truth
is pass@k over that distribution. 95 % of the intervals should hold it.
"""

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from phi_jax.evaluation.intervals import bootstrap_interval
from phi_jax.evaluation.scores import pass_at_k

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

RUNS = 1500
RESAMPLES = 1000
CHANCES = {"a mixed benchmark": (0.3, 0.7), "a hard benchmark": (0.1, 1.5)}
RESULT = Path(__file__).with_name("coverage.json")


def percentiles(values, seed):
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    return np.quantile(draws @ distinct / len(values), [0.025, 0.975])


def coverage(rng, problems, beta, samples, k):
    truth = float(np.mean(1 - (1 - rng.beta(*beta, 2_000_000)) ** k))
    value = np.array([pass_at_k(samples, passed, k) for passed in range(samples + 1)])
    held, runs = np.zeros(2), 0
    for run in range(RUNS):
        values = value[rng.binomial(samples, rng.beta(*beta, problems))]
        bca = bootstrap_interval(values, resamples=RESAMPLES, seed=run)
        if bca is None:
            continue  # all problems the same: scores.entries takes Wilson's
        runs += 1
        held += [low <= truth <= high for low, high in (bca, percentiles(values, run))]
    return {
        "truth": round(truth, 4),
        "runs": runs,
        "bca": round(held[0] / runs, 3),
        "percentiles": round(held[1] / runs, 3),
    }


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = {
        f"{name}, {problems} problems, {samples} samples, pass@{k}": coverage(rng, problems, beta, samples, k)
        for name, beta in CHANCES.items()
        for problems in (40, 164)
        for samples, k in ((10, 1), (20, 10))
    }
    RESULT.write_text(
        json.dumps({"date": datetime.date.today().isoformat(), "resamples": RESAMPLES, "coverage": found}, indent=1)
        + "\n"
    )
    for name, row in found.items():
        assert row["bca"] >= (0.89 if "40" in name else 0.93), name
        assert row["bca"] >= row["percentiles"] - 0.01, name
