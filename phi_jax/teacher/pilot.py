"""`--pilot N`: a few requests are made, paid and checked, and say what all of them will cost and be worth.

Their replies lie in the journal, so the run that follows does not pay for them again; `plan` reads what they were like.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from phi_jax.teacher.journal import look
from phi_jax.teacher.request import PICODOLLARS

_MEANS = """
    SELECT substr(asked.label, 1, instr(asked.label, '/') - 1), asked.model, count(*), avg(replies.prompt),
           avg(replies.completion)
    FROM replies JOIN (SELECT DISTINCT key, model, label FROM attempts) AS asked USING (key) GROUP BY 1, 2
"""


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


def share_file(journal: str, name: str) -> Path:
    """Beside the journal: the share of a pilot's requests that passed, of the stage instance of this name."""
    return Path(journal, f"pilot-{name}.json")


def measured(journal: str) -> dict[tuple[str, str], tuple[float, float, str]]:
    """(what a request's label begins with, such as "exercises", model) -> (mean tokens of its prompts, of its replies,
    and how that is known), of the replies that lie in the journal in this directory. Raises UserError as `look`.
    """
    rows = look(journal, _MEANS)
    return {(kind, model): (prompt, reply, f"measured on {n:,}") for kind, model, n, prompt, reply in rows}
