"""pass@k, intervals, and two models on the same problems."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from phi_jax.evaluation.comparison import holm, mcnemar, paired, robustness
from phi_jax.evaluation.intervals import bootstrap_interval, paired_interval, wilson_interval
from phi_jax.evaluation.scores import entries, pass_at_k

COUNTS = st.integers(0, 60)
TABLES = st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(any)
VERDICTS = st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=40)


# --- pass@k --------------------------------------------------------------------------------------------------


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass(counts):
    n, c, k = counts
    assert abs(pass_at_k(n, c, k) - (1 - math.comb(n - c, k) / math.comb(n, k))) < 1e-9


# --- Intervals -----------------------------------------------------------------------------------------------


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_value_and_stays_in_range(counts):
    passed, n = counts
    low, high = wilson_interval(passed / n, n)
    assert 0 <= low <= passed / n <= high <= 1
    assert high > low
    published = stats.binomtest(passed, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((published.low, published.high), abs=1e-6)


def test_wilson_against_published_figures():
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert [round(x, 4) for x in wilson_interval(81 / 263, 263)] == [0.2553, 0.3662]
    assert [round(x, 4) for x in wilson_interval(0, 20)] == [0.0, 0.1611]


@given(st.lists(st.integers(0, 10), min_size=2, max_size=80).filter(lambda v: len(set(v)) > 1), st.randoms())
def test_the_bootstrap_holds_the_mean_and_knows_no_order(passed, rng):
    values = [p / 10 for p in passed]
    low, high = bootstrap_interval(values, resamples=500)
    assert min(values) - 1e-9 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values) + 1e-9
    assert low < high
    rng.shuffle(values)
    assert bootstrap_interval(values, resamples=500) == (low, high)


def test_the_bootstrap_holds_the_truth_as_often_as_it_says():
    """Problems whose chance is 0.1, 0.5 or 0.9, ten samples each: 300 runs, of which 285 +- 11 (3 sigma) should."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        values = rng.binomial(10, rng.choice([0.1, 0.5, 0.9], size=100)) / 10
        low, high = bootstrap_interval(values, resamples=1000)
        held += low <= 0.5 <= high
    assert abs(held - 285) <= 12


def test_the_paired_interval_worked_out_by_hand():
    """Agresti and Min 2005: 50 problems, 12 and 2 discordant: (10 +- 1.96 root(15 - 100 / 52)) / 52."""
    assert paired_interval(12, 2, 50) == pytest.approx((0.056007, 0.328608), abs=1e-5)


@given(TABLES)
def test_the_paired_interval_holds_the_difference_and_turns_with_the_sides(table):
    _, first, second, _ = table
    low, high = paired_interval(first, second, sum(table))
    assert -1 <= low <= (first - second) / sum(table) <= high <= 1
    assert low < high
    assert paired_interval(second, first, sum(table)) == pytest.approx((-high, -low))


def test_the_paired_interval_holds_the_truth_as_often_as_it_says():
    """A pair of models that solve 0.6 and 0.5 of 40 problems, each by chance: 2,000 runs, 95 % +- 1.5 (3 sigma)."""
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 2000, 40)) < np.array([0.6, 0.5])[:, None, None]
    counts = zip((one & ~other).sum(1), (other & ~one).sum(1), strict=True)
    held = [low <= 0.1 <= high for low, high in (paired_interval(b, c, 40) for b, c in counts)]
    assert abs(np.mean(held) - 0.95) < 0.015


# --- Entries -------------------------------------------------------------------------------------------------


def test_one_sample_a_problem_has_the_wilson_interval():
    (entry,) = entries([[True], [False], [True], [True]], model="m", benchmark="b")
    assert entry == {
        "model": "m",
        "benchmark": "b",
        "metric": "pass@1",
        "value": 0.75,
        "low": wilson_interval(0.75, 4)[0],
        "high": wilson_interval(0.75, 4)[1],
        "interval": "wilson",
        "problems": 4,
        "samples": 4,
    }


def test_several_samples_have_the_bootstrap_over_problems():
    verdicts = {"a": [True, False], "b": [True, True], "c": [False, False]}
    (entry,) = entries(verdicts.values(), model="m")
    assert (entry["value"], entry["problems"], entry["samples"], entry["model"]) == (0.5, 3, 6, "m")
    assert (entry["low"], entry["high"]) == bootstrap_interval([0.5, 1.0, 0.0])
    assert entry["interval"] == "bootstrap"


def test_where_all_problems_do_the_same_the_interval_still_has_a_width():
    for verdicts in ([[False] * 10] * 20, [[True] * 10] * 20):
        for entry in entries(verdicts):
            assert entry["interval"] == "wilson"
            assert entry["high"] - entry["low"] > 0.1


@pytest.mark.parametrize(("samples", "ks"), [(1, [1]), (9, [1]), (10, [1, 10]), (99, [1, 10]), (100, [1, 10, 100])])
def test_every_k_that_the_samples_allow(samples, ks):
    verdicts = [[True] + [False] * (samples - 1), [False] * samples, [True] * (samples + 3)]
    found = entries(verdicts)
    assert [e["metric"] for e in found] == [f"pass@{k}" for k in ks]
    for entry, k in zip(found, ks, strict=True):
        assert entry["value"] == pytest.approx((k / samples + 0 + 1) / 3)


@given(VERDICTS)
def test_an_entry_holds_its_value(verdicts):
    found = entries(verdicts)
    for entry in found:
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
        assert entry["low"] < entry["high"]
    assert [e["value"] for e in found] == sorted(e["value"] for e in found)  # more tries, more solved


# --- Two on the same problems --------------------------------------------------------------------------------


def test_mcnemar_against_published_figures():
    """Fagerland, Lydersen and Laake 2013: 1 and 7 discordant pairs of airway responsiveness, exact p 0.070; and the
    approval ratings of Agresti, 150 and 86, whose p is below 0.0001."""
    assert round(mcnemar(1, 7), 3) == 0.070
    assert mcnemar(150, 86) < 1e-4


def table(both, first, second, neither):
    """Two sets of verdicts with these counts."""
    pairs = [(1, 1)] * both + [(1, 0)] * first + [(0, 1)] * second + [(0, 0)] * neither
    return tuple({f"t/{i}": [bool(pair[side])] for i, pair in enumerate(pairs)} for side in (0, 1))


def test_a_pair_of_greedy_runs():
    assert paired(*table(36, 12, 2, 0)) == {
        "problems": 50,
        "first": 0.96,
        "second": 0.76,
        "difference": pytest.approx(0.2),
        "low": pytest.approx(0.056007, abs=1e-5),
        "high": pytest.approx(0.328608, abs=1e-5),
        "p": stats.binomtest(2, 14).pvalue,
        "first_better": 12,
        "second_better": 2,
        "equal": 36,
    }


@given(TABLES)
def test_the_two_sides_of_a_pair_mirror_each_other(counts):
    first, second = table(*counts)
    one, other = paired(first, second), paired(second, first)
    assert one["difference"] == -other["difference"]
    assert (one["p"], one["first_better"]) == (other["p"], other["second_better"])
    assert one["low"] == pytest.approx(-other["high"])
    assert paired(first, first)["p"] == 1
    assert sum(one[key] for key in ("first_better", "second_better", "equal")) == one["problems"]


def test_holm_against_figures_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(ps, rng):
    corrected = holm(ps)
    for p, c in zip(ps, corrected, strict=True):
        assert p <= c <= min(1, len(ps) * p) + 1e-12
    pairs = sorted(zip(ps, corrected, strict=True))
    assert [c for _, c in pairs] == sorted(corrected)
    rng.shuffle(pairs)
    assert holm([p for p, _ in pairs]) == pytest.approx([c for _, c in pairs])


# --- Robustness ----------------------------------------------------------------------------------------------


def test_robustness_is_of_the_changed_problems_alone():
    base, worse = table(30, 10, 1, 9)
    base |= {"kept/1": [True], "kept/2": [False]}
    typos, same, rename = (robustness(base, verdicts) for verdicts in (worse, {"kept/1": [True]}, {}))
    assert (typos["difference"], typos["problems"]) == (pytest.approx(0.18), 50)
    assert (typos["first_better"], typos["second_better"], typos["p"]) == (10, 1, mcnemar(10, 1))
    assert (same["difference"], same["p"]) == (0, 1)
    assert rename == {"problems": 0, "p": None}
