"""95 % intervals of a share, of a mean over problems, and of a difference of two shares on the same problems."""

from __future__ import annotations

import math
from collections.abc import Sequence

RESAMPLES = 10_000


def wilson_interval(value: float, trials: int) -> tuple[float, float]:
    """The Wilson score interval (95 %) of a share `value` seen in `trials` (Wilson 1927).

    Where value * trials is no whole number, as a mean over problems may be, the bounds are those of the whole numbers
    below and above it: the interval is then a little wide. Raises ValueError for no share, and for no trials.
    """
    if trials < 1 or not 0 <= value <= 1:
        raise ValueError(f"a share of {value} in {trials} trials")
    from scipy.stats import binomtest

    passed = round(value * trials, 6)
    low = binomtest(math.floor(passed), trials).proportion_ci(method="wilson").low
    high = binomtest(math.ceil(passed), trials).proportion_ci(method="wilson").high
    # Rounding may leave the bounds a hair on the wrong side of the value at 0 and 1.
    return min(float(low), value), max(float(high), value)


def bootstrap_interval(
    values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The BCa bootstrap interval (95 %) of the mean of `values`, one per problem (Efron 1987).

    Problems are resampled, so the samples of one problem stay together. BCa, not the plain percentiles: few problems
    that are hard for a model make a skewed mean, and there the percentiles end too low (tests/acceptance/coverage.json
    has how often each holds the truth). The order of the values does not matter. None where all values are the same,
    since resampling then knows of no spread. Raises ValueError for no values.
    """
    if not len(values):
        raise ValueError("an interval of no values")
    # Rounded, as 0.1 + 0.2 and 0.3 would otherwise be two values.
    ordered = sorted(round(float(value), 12) for value in values)
    if ordered[0] == ordered[-1]:
        return None
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (ordered,), np.mean, n_resamples=resamples, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    mean = math.fsum(ordered) / len(ordered)
    return min(float(found.low), mean), max(float(found.high), mean)


def paired_interval(both: int, first_only: int, second_only: int, neither: int) -> tuple[float, float]:
    """The interval (95 %) of the first share less the second, from how many problems who solved.

    Method 10 of Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data": the Wilson intervals of both shares, put together with their correlation. It keeps its width where the
    two never disagree, which a bootstrap of the differences does not. Raises ValueError for counts below 0 or none.
    """
    problems = both + first_only + second_only + neither
    if min(both, first_only, second_only, neither) < 0 or not problems:
        raise ValueError(f"counts of {both}, {first_only}, {second_only} and {neither} problems")
    first, second = (both + first_only) / problems, (both + second_only) / problems
    first_low, first_high = wilson_interval(first, problems)
    second_low, second_high = wilson_interval(second, problems)
    product = float(both * neither - first_only * second_only)
    if product > 0:
        product = max(product - problems / 2, 0.0)  # the continuity correction that makes it method 10
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    correlation = product / math.sqrt(margins) if margins else 0.0

    def half(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    difference = (first_only - second_only) / problems
    return (
        max(-1.0, difference - half(first - first_low, second_high - second)),
        min(1.0, difference + half(first_high - first, second - second_low)),
    )
