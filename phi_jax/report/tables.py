"""What the tables of a report have in common, on a page and on a terminal, and the paper's own numbers."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax.store.artifact import Fields, Json

Score = Fields  # "value", "low" and "high", shares, and "problems"

PAPER: Json = json.loads(Path(__file__).with_name("paper.json").read_text())
"""Figure 2.1 and Tables 1 to 3 of "Textbooks Are All You Need", each with "says": what stands in it."""


def lines(rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines for a terminal, columns below one another. A cell is a Score, None for an empty one, or whatever."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["   ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _text(cell: Any) -> str:
    if isinstance(cell, Mapping):
        return f"{100 * cell['value']:5.1f} % [{100 * cell['low']:4.1f}, {100 * cell['high']:5.1f}]"
    return "" if cell is None else str(cell)


def over_seeds(seeds: Sequence[Mapping[str, Score | None]]) -> dict[str, Json | None]:
    """The scores of several seeds, each by name, as one; None where no seed has any that is published.

    -> name -> "values" and "problems" (of each seed), "value" (their mean), "low", "high", and "interval", which says
    what the 95 % interval is: Student's over seeds where there are three or more; the range of two; over problems where
    there is one, or all have the same value, from which no spread is known.
    """
    return {name: _over_seeds([seed[name] for seed in seeds]) for name in seeds[0]}


def _over_seeds(scores: Sequence[Score | None]) -> Json | None:
    known = [score for score in scores if score and score["value"] is not None]
    if not known:
        return None
    values = [score["value"] for score in known]
    mean = statistics.fmean(values)
    low, high, interval = min(values), max(values), "range of two seeds"
    if low == high:
        low, high, interval = known[0]["low"], known[0]["high"], "over problems"
    elif len(values) > 2:
        from scipy import stats

        half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        low, high, interval = max(0.0, mean - half), min(1.0, mean + half), "Student's t, over seeds"
    problems = [score["problems"] for score in known]
    return {"values": values, "problems": problems, "value": mean, "low": low, "high": high, "interval": interval}
