"""`--pilot N`: a few requests are made, paid and checked, and say what all of them will cost, take and be worth.

Their replies lie in the journal, so the run that follows does not pay for them again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Sequence

from phi_jax.errors import UserError
from phi_jax.evaluation.scores import wilson_interval
from phi_jax.teacher.request import PICODOLLARS

_Z = 1.959964  # of a 95 % interval


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a pilot saw."""

    total: int  # requests that the whole stage makes
    costs: Sequence[int]  # picodollars of each request of the pilot, lost attempts included
    rejected: Counter[str]  # texts or votes that were set aside, by reason
    asked: int  # of the pilot's requests, those that were not in the journal before
    seconds: float  # that these took
    batch: bool  # whether the whole stage goes through the Batch API, whose hours live requests do not tell


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Projection:
    """What the whole stage will be like, if the rest is like the sample."""

    dollars: Estimate  # all requests, the sample's included
    rejected: Estimate  # share
    hours: Estimate | None  # of live requests; None where the sample's replies were all there before


def project(sample: Sample) -> Projection:
    """Raises UserError where the sample is too small to say anything."""
    count = len(sample.costs)
    if count < 2:
        raise UserError(f"--pilot {count}: too few requests for an interval; use 200")
    mean = statistics.fmean(sample.costs)
    half = _Z * statistics.stdev(sample.costs) / math.sqrt(count)
    share = sample.rejected.total() / count
    hours = None
    if sample.asked:
        # Replies are counted as a Poisson process: the rate's relative error is 1 / sqrt(count).
        per_request, wide = sample.seconds / sample.asked / 3600, min(_Z / math.sqrt(sample.asked), 0.99)
        each = sample.total * per_request
        hours = Estimate(each, each / (1 + wide), each / (1 - wide))
    dollars = sample.total / PICODOLLARS
    return Projection(
        dollars=Estimate(mean * dollars, max(mean - half, 0.0) * dollars, (mean + half) * dollars),
        rejected=Estimate(share, *wilson_interval(share, count)),
        hours=hours,
    )


def lines(stage: str, sample: Sample) -> list[str]:
    """For the user."""
    projection = project(sample)
    spent = sum(sample.costs) / PICODOLLARS
    found = [
        f"{stage}: pilot of {len(sample.costs):,} of {sample.total:,} requests cost ${spent:,.4f}; all, if like these "
        "(95 % intervals):",
        f"  dollars   {_shown(projection.dollars, '${:,.2f}')}",
        f"  rejected  {_shown(projection.rejected, '{:.1%}')}"
        + "".join(f"; {reason}: {n}" for reason, n in sample.rejected.most_common()),
    ]
    if sample.batch:
        found.append("  hours     not told: the Batch API answers within 24 hours a batch")
    elif projection.hours is None:
        found.append("  hours     not told: every reply was in the journal already")
    else:
        found.append(f"  hours     {_shown(projection.hours, '{:,.2f}')}, at this window and these rate limits")
    return found


def _shown(estimate: Estimate, form: str) -> str:
    value, low, high = map(form.format, dataclasses.astuple(estimate))
    return f"{value} ({low} to {high})"
