"""`--pilot N`: a few requests are made, paid and checked, and say what all of them will cost, take and be worth.

Their replies lie in the journal, so the run that follows does not pay for them again.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from phi_jax.errors import UserError
from phi_jax.teacher.request import PICODOLLARS

_Z = 1.959964  # of a 95 % interval

Estimate = tuple[float, float, float]  # value, and the ends of its 95 % interval


def project(
    *, total: int, costs: Sequence[int], rejected: Counter[str], asked: int, seconds: float, batch: bool
) -> dict[str, Estimate]:
    """What the whole stage will be like, if the rest is like the pilot: dollars, rejected (a share) and hours.

    total: requests that the whole stage makes. costs: picodollars of each request of the pilot, lost attempts included.
    rejected: texts or votes that were set aside, by reason. asked: of the pilot's requests, those that were not in the
    journal before; seconds: that these took. batch: whether the whole stage goes through the Batch API, whose hours
    live requests do not tell.

    hours are missing where the pilot cannot tell them. Raises UserError where it is too small to say anything.
    """
    from scipy.stats import binomtest

    count = len(costs)
    if count < 2:
        raise UserError(f"--pilot {count}: too few requests for an interval; use 200")
    dollars = total / PICODOLLARS
    mean = statistics.fmean(costs)
    half = _Z * statistics.stdev(costs) / math.sqrt(count)
    rejected_between = binomtest(rejected.total(), count).proportion_ci(method="wilson")
    estimates = {
        "dollars": (mean * dollars, max(mean - half, 0.0) * dollars, (mean + half) * dollars),
        "rejected": (rejected.total() / count, *rejected_between),
    }
    if asked and not batch:
        # Replies are counted as a Poisson process: the rate's relative error is 1 / sqrt(count).
        hours = total * seconds / asked / 3600
        wide = min(_Z / math.sqrt(asked), 0.99)
        estimates["hours"] = (hours, hours / (1 + wide), hours / (1 - wide))
    return estimates


def lines(stage: str, pilot: Mapping[str, Any]) -> list[str]:
    """For the user. pilot: the arguments of `project`, as a stage's `pilot` returns them."""
    estimates, costs = project(**pilot), pilot["costs"]
    rejected = "".join(f"; {reason}: {n}" for reason, n in pilot["rejected"].most_common())
    hours = "not told: every reply was in the journal already"
    if pilot["batch"]:
        hours = "not told: the Batch API answers within 24 hours a batch"
    elif "hours" in estimates:
        hours = f"{_shown(estimates['hours'], '{:,.2f}')}, at this window and these rate limits"
    return [
        f"{stage}: pilot of {len(costs):,} of {pilot['total']:,} requests cost ${sum(costs) / PICODOLLARS:,.4f}; all, "
        "if like these (95 % intervals):",
        f"  dollars   {_shown(estimates['dollars'], '${:,.2f}')}",
        f"  rejected  {_shown(estimates['rejected'], '{:.1%}')}{rejected}",
        f"  hours     {hours}",
    ]


def _shown(estimate: Estimate, form: str) -> str:
    value, low, high = map(form.format, estimate)
    return f"{value} ({low} to {high})"
