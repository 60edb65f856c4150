"""Two models, or two forms of a prompt, on the same problems: the difference, its interval and its p-value.

p-values come uncorrected: who shows several of them in one table corrects them with `holm`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation.intervals import RESAMPLES, bootstrap_interval, paired_interval

Verdicts = Mapping[str, Sequence[bool]]  # task_id -> whether each of its samples passed


def mcnemar(first_only: int, second_only: int) -> float:
    """The exact two-sided p-value of McNemar's test (McNemar 1947, in its binomial form).

    first_only, second_only: the discordant counts, problems that only one of the two solved. If neither is better, each
    of these is a fair coin: the p-value is the chance of counts at least as far apart. 1 where there are none.
    """
    from scipy.stats import binomtest

    discordant = first_only + second_only
    return float(binomtest(first_only, discordant).pvalue) if discordant else 1.0


def paired(first: Verdicts, second: Verdicts) -> dict[str, Any]:
    """Compares pass@1 of two on the same problems.

    -> "first" and "second" (pass@1 of each), "difference" (first less second) with "low" and "high" (95 %), "p"
    (two-sided, uncorrected), "problems", and on how many of them the first is better ("first_better"), the second, or
    neither ("equal"). With one sample a problem, "test" is "mcnemar" and "interval" "agresti-min", and the counts are
    the discordant ones. With several, on either side, they are "sign-flip" and "bootstrap", both over the differences
    of the problems; low and high are then None where all differences are the same, since resampling knows of no spread.
    Raises UserError where the two do not have the same problems, or none.
    """
    if odd := first.keys() ^ second.keys():
        raise UserError(
            f"comparison: problem {min(odd)} has verdicts on one side only; compare two that were run on the same "
            "problems"
        )
    if not first or not all(map(len, (*first.values(), *second.values()))):
        raise UserError("comparison: no problem, or one without a sample; each side needs a verdict for each problem")
    # The order of the problems in either file does not matter.
    pairs = [(statistics.fmean(first[task]), statistics.fmean(second[task])) for task in sorted(first)]
    differences = [a - b for a, b in pairs]
    first_better, second_better = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    bounds: tuple[float, float] | None
    if all(len(verdicts) == 1 for verdicts in (*first.values(), *second.values())):
        bounds = paired_interval(first_better, second_better, len(pairs))
        interval, test, p = "agresti-min", "mcnemar", mcnemar(first_better, second_better)
    else:
        bounds = bootstrap_interval(differences)
        interval, test, p = "bootstrap", "sign-flip", sign_flip(differences)
    low, high = bounds or (None, None)
    return {
        "problems": len(pairs),
        "first": statistics.fmean(a for a, _ in pairs),
        "second": statistics.fmean(b for _, b in pairs),
        "difference": statistics.fmean(differences),
        "low": low,
        "high": high,
        "interval": interval,
        "p": p,
        "test": test,
        "first_better": first_better,
        "second_better": second_better,
        "equal": len(pairs) - first_better - second_better,
    }


def sign_flip(differences: Sequence[float], *, draws: int = RESAMPLES, seed: int = 0) -> float:
    """The two-sided p-value of Fisher's randomization test: each difference had either sign with the same chance.

    For differences of one sample a problem (-1, 0, 1) this is McNemar's test. All signs are tried where there are at
    most `draws` ways to set them; else so many are drawn, and the differences as seen count as one more draw, so that
    no p-value is 0 (Phipson and Smyth 2010).
    """
    if len(differences) < 2:  # whose sign changes nothing on both sides of 0
        return 1.0
    import numpy as np
    from scipy.stats import permutation_test

    def distance(signed: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(signed.sum(axis=axis))

    test = permutation_test(
        (np.round(differences, 12),), distance,
        permutation_type="samples", n_resamples=draws, alternative="greater", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979), in their order: it bounds the chance of one false alarm in all.

    Holds whatever the tests have to do with each other, which is why it is the one used here.
    """
    corrected = [0.0] * len(ps)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return corrected


def robustness(base: Verdicts, perturbed: Mapping[str, Verdicts]) -> list[dict[str, Any]]:
    """What each perturbation of the prompts costs in pass@1, one row each.

    perturbed: by name, the verdicts on the problems that the perturbation changed, and on no others: a problem that
    stayed as it was would only dilute the difference. A row is `paired` of base (first) and perturbed (second) on these
    problems, with "perturbation" and "unchanged" (problems of `base` left out). A perturbation that changed no problem
    has only its counts, and None for "p".
    """
    return [
        {
            "perturbation": name,
            "unchanged": len(base) - len(verdicts),
            **(paired({task: base[task] for task in verdicts}, verdicts) if verdicts else {"problems": 0, "p": None}),
        }
        for name, verdicts in perturbed.items()
    ]
