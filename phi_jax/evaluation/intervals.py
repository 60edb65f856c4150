"""95 % intervals of a share, of a mean over problems, and of a difference of two shares on the same problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

Z = 1.959964  # of a two-sided 95 % interval
RESAMPLES = 10_000


def wilson_interval(value: float, trials: int, z: float = Z) -> tuple[float, float]:
    """The Wilson score interval (95 %) of a share `value` seen in `trials` (Wilson 1927)."""
    if trials < 1 or not 0 <= value <= 1:
        raise ValueError(f"a share of {value} in {trials} trials")
    denominator = 1 + z * z / trials
    centre = (value + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(value * (1 - value) / trials + z * z / (4 * trials * trials))
    # Rounding may leave the bounds a hair on the wrong side of the value at 0 and 1.
    return min(max(0.0, centre - half), value), max(min(1.0, centre + half), value)


def bootstrap_interval(
    values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The BCa bootstrap interval (95 %) of the mean of `values`, one per problem (Efron 1987).

    Problems are resampled, so the samples of one problem stay together. BCa, not the plain percentiles: few problems
    that are hard for a model make a skewed mean, and there the percentiles end too low (of 40 such problems they
    hold the truth in 90 % of the runs, BCa in 92 %; of 164 in 95 and 96 %: tests/acceptance/coverage.json). Only how
    often each value occurs is drawn, which is the same thing and takes no matrix of resamples x problems; so the order
    of the values does not matter. None where all values are the same, since resampling then knows
    of no spread. Raises ValueError for no values.
    """
    import numpy as np

    if not len(values):
        raise ValueError("an interval of no values")
    # Rounded, as 0.1 + 0.2 and 0.3 would otherwise be two values.
    distinct, counts = np.unique(np.round(np.asarray(values, np.float64), 12), return_counts=True)
    if len(distinct) == 1:
        return None
    problems = int(counts.sum())
    mean = float(distinct @ counts) / problems
    draws = np.random.default_rng(seed).multinomial(problems, counts / problems, size=resamples)
    means = draws @ distinct / problems
    # A mean of few distinct values is often met exactly: half of these lie below it. The clip is for a mean that all
    # resamples lie on one side of, whose normal quantile would be infinite.
    close = 1e-9 * float(np.abs(distinct).max())
    below = float(np.mean(means < mean - close) + np.mean(means <= mean + close)) / 2
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    apart = distinct - mean
    acceleration = float(counts @ apart**3) / (6 * float(counts @ apart**2) ** 1.5)
    shares = [normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-Z, Z)]
    low, high = np.quantile(means, shares)
    return min(float(low), mean), max(float(high), mean)


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
