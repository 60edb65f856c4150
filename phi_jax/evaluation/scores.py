"""pass@k and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes (Chen et al. 2021, equation 1).

    samples: drawn for the problem, at least k. Raises ValueError for counts that make no sense.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {passed} passed among {samples} samples")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


def wilson_interval(value: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval (95 %) of a share `value` seen in `trials` (Wilson 1927)."""
    if trials < 1 or not 0 <= value <= 1:
        raise ValueError(f"a share of {value} in {trials} trials")
    denominator = 1 + z * z / trials
    centre = (value + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(value * (1 - value) / trials + z * z / (4 * trials * trials))
    # Rounding may leave the bounds a hair on the wrong side of the value at 0 and 1.
    return min(max(0.0, centre - half), value), max(min(1.0, centre + half), value)


def pass_at_1_entry(verdicts: Sequence[Sequence[bool]], **about: str) -> dict:
    """An entry of scores.json from the verdicts of each problem's samples.

    The interval takes the problems as trials: samples of one problem are not independent, so counting them as
    trials would make it too narrow; as it is, it is on the safe side. about: model, benchmark, prompt_form, ...
    """
    value = math.fsum(pass_at_k(len(v), sum(v), 1) for v in verdicts) / len(verdicts)
    low, high = wilson_interval(value, len(verdicts))
    return {
        **about,
        "metric": "pass@1",
        "value": value,
        "low": low,
        "high": high,
        "problems": len(verdicts),
        "samples": sum(map(len, verdicts)),
    }
