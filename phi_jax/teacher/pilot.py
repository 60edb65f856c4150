"""`--pilot N`: a few requests are made, paid and checked, and say what all of them will cost and be worth.

Their replies lie in the journal, so the run that follows does not pay for them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from phi_jax.teacher.request import PICODOLLARS


def lines(stage: str, total: int, costs: Sequence[int], rejected: Counter[str]) -> list[str]:
    """For the user: what a stage has asked for, and what all of it will be like if the rest is like that.

    total: requests that the whole stage makes. costs: picodollars of each request of the pilot, lost attempts included;
    a pilot asks live, and the Batch API may cost less. rejected: texts or votes that were set aside, by reason.
    """
    paid = sum(costs) / PICODOLLARS
    reasons = "".join(f"; {reason}: {n}" for reason, n in rejected.most_common())
    return [
        f"{stage}: pilot of {len(costs):,} of {total:,} requests cost ${paid:,.4f}; all, if like these, asked live:",
        f"  dollars   ${paid * total / len(costs):,.2f}",
        f"  rejected  {rejected.total() / len(costs):.1%}{reasons}",
    ]
