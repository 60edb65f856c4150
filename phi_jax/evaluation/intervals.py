"""95 % intervals of a share, of a mean over problems, and of a difference of two shares on the same problems."""

import math
from collections.abc import Sequence

RESAMPLES = 10_000
_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


def wilson_interval(value: float, trials: int) -> tuple[float, float]:
    """The Wilson score interval (95 %) of a share `value` seen in `trials` (Wilson 1927).

    Where value * trials is no whole number, as a mean over problems may be, the bounds are those of the whole numbers
    below and above it: the interval is then a little wide.
    """
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
    since resampling then knows of no spread.
    """
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


def paired_interval(first_only: int, second_only: int, problems: int) -> tuple[float, float]:
    """The interval (95 %) of the first share less the second, from how many of the problems only one of the two solved.

    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions": Wald's interval with
    half a problem more in each of the four cells. It keeps its width where the two never disagree, which a bootstrap
    of the differences does not.
    """
    trials = problems + 2
    difference = (first_only - second_only) / trials
    half = _Z * math.sqrt((first_only + second_only + 1) / trials - difference**2) / math.sqrt(trials)
    return max(-1.0, difference - half), min(1.0, difference + half)
