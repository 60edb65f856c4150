"""Figures of grades: how far repeats differ, how far they agree with what was run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def point_biserial(grades: Sequence[float], passed: Sequence[bool]) -> float | None:
    """Pearson's correlation of the grades with passed as 0 or 1; None where either is the same throughout."""
    if len(set(grades)) < 2 or len(set(passed)) < 2:
        return None
    return statistics.correlation(list(map(float, grades)), list(map(float, passed)))


def auc(grades: Sequence[float], passed: Sequence[bool]) -> float | None:
    """Share of the pairs of a passed and a failed one in which the passed one has the higher grade, a tie one half.

    By ranks (Mann and Whitney 1947). None where one of the classes is missing.
    """
    wins = sum(passed)
    losses = len(passed) - wins
    if not wins or not losses:
        return None
    ordered = sorted(zip(grades, passed, strict=True))
    doubled, place = 0, 0  # twice the passed ones' ranks less one half: whole numbers, so the sum is exact
    while place < len(ordered):
        end = place
        while end < len(ordered) and ordered[end][0] == ordered[place][0]:
            end += 1
        doubled += (place + end) * sum(won for _, won in ordered[place:end])
        place = end
    return (doubled - wins * wins) / (2 * wins * losses)


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None
