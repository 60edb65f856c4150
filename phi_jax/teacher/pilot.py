"""`--pilot N`: a few requests are made, paid and checked, and say what all of them will cost, take and be worth.

Their replies lie in the journal, so the run that follows does not pay for them again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from phi_jax.errors import UserError
from phi_jax.teacher.request import PICODOLLARS, Request

if TYPE_CHECKING:
    from phi_jax.teacher.asking import Tally
    from phi_jax.teacher.teachers import Shares, Teachers

_Z = 1.959964  # of a 95 % interval

Estimate = tuple[float, float, float]  # value, and the ends of its 95 % interval


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a pilot saw."""

    total: int  # requests that the whole stage makes
    costs: Sequence[int]  # picodollars of each request of the pilot, lost attempts included
    rejected: Counter[str]  # texts or votes that were set aside, by reason
    asked: int  # of the pilot's requests, those that were not in the journal before
    seconds: float  # that these took
    batch: bool  # whether the whole stage goes through the Batch API, whose hours live requests do not tell

    @classmethod
    def of(
        cls,
        teachers: Teachers,
        shares: Shares,
        requests: Iterable[Request],
        tallies: Sequence[Tally],
        *,
        total: int,
        rejected: Counter[str],
    ) -> Sample:
        """What came of `requests`, which were asked in one or more calls. Those of one label count as one request.

        tallies: what each call returned; the first one asked for every label.
        """
        costs: Counter[str] = Counter()
        for request, reply in teachers.replies(requests):
            costs[request.label] += teachers.planned_cost(request, reply)
        return cls(
            total=total,
            costs=list(costs.values()),
            rejected=rejected,
            asked=len(costs) - tallies[0].found,
            seconds=sum(tally.seconds for tally in tallies),
            batch=any(endpoint.mode == "batch" for endpoint in shares.endpoints),
        )


def project(sample: Sample) -> dict[str, Estimate]:
    """What the whole stage will be like, if the rest is like the sample: dollars, rejected (a share) and hours.

    hours are missing where the sample cannot tell them. Raises UserError where it is too small to say anything.
    """
    count = len(sample.costs)
    if count < 2:
        raise UserError(f"--pilot {count}: too few requests for an interval; use 200")
    dollars = sample.total / PICODOLLARS
    mean = statistics.fmean(sample.costs)
    half = _Z * statistics.stdev(sample.costs) / math.sqrt(count)
    estimates = {
        "dollars": (mean * dollars, max(mean - half, 0.0) * dollars, (mean + half) * dollars),
        "rejected": _share(sample.rejected.total(), count),
    }
    if sample.asked and not sample.batch:
        # Replies are counted as a Poisson process: the rate's relative error is 1 / sqrt(count).
        hours = sample.total * sample.seconds / sample.asked / 3600
        wide = min(_Z / math.sqrt(sample.asked), 0.99)
        estimates["hours"] = (hours, hours / (1 + wide), hours / (1 - wide))
    return estimates


def lines(stage: str, sample: Sample) -> list[str]:
    """For the user."""
    estimates = project(sample)
    spent = sum(sample.costs) / PICODOLLARS
    rejected = "".join(f"; {reason}: {n}" for reason, n in sample.rejected.most_common())
    hours = "not told: every reply was in the journal already"
    if sample.batch:
        hours = "not told: the Batch API answers within 24 hours a batch"
    elif "hours" in estimates:
        hours = f"{_shown(estimates['hours'], '{:,.2f}')}, at this window and these rate limits"
    return [
        f"{stage}: pilot of {len(sample.costs):,} of {sample.total:,} requests cost ${spent:,.4f}; all, if like these "
        "(95 % intervals):",
        f"  dollars   {_shown(estimates['dollars'], '${:,.2f}')}",
        f"  rejected  {_shown(estimates['rejected'], '{:.1%}')}{rejected}",
        f"  hours     {hours}",
    ]


def _share(count: int, total: int) -> Estimate:
    """A share with Wilson's interval."""
    share, scale = count / total, 1 + _Z**2 / total
    middle = (share + _Z**2 / (2 * total)) / scale
    half = _Z * math.sqrt(share * (1 - share) / total + (_Z / (2 * total)) ** 2) / scale
    return share, max(0.0, middle - half), min(1.0, middle + half)


def _shown(estimate: Estimate, form: str) -> str:
    value, low, high = map(form.format, estimate)
    return f"{value} ({low} to {high})"
