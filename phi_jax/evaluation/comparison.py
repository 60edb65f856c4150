"""Two models, or two forms of a prompt, on the same problems: the difference, its interval and its p-value.

p-values come uncorrected: who shows several of them in one table corrects them with `holm`.
"""

from collections.abc import Mapping, Sequence

from phi_jax.evaluation.intervals import paired_interval
from phi_jax.store.artifact import Json

Verdicts = Mapping[str, Sequence[bool]]  # task_id -> whether each of its samples passed


def mcnemar(first_only: int, second_only: int) -> float:
    """The exact two-sided p-value of McNemar's test (McNemar 1947, in its binomial form).

    first_only, second_only: the discordant counts, problems that only one of the two solved. If neither is better, each
    of these is a fair coin: the p-value is the chance of counts at least as far apart. 1 where there are none.
    """
    from scipy.stats import binomtest

    discordant = first_only + second_only
    return float(binomtest(first_only, discordant).pvalue) if discordant else 1.0


def paired(first: Verdicts, second: Verdicts) -> Json:
    """Compares pass@1 of two on the same problems, with one sample a problem, and at least one problem.

    -> "first" and "second" (pass@1 of each), "difference" (first less second) with "low" and "high" (95 %), "p"
    (McNemar's, two-sided, uncorrected), "problems", and on how many of them only the first passed ("first_better"),
    only the second, or both or neither ("equal").
    """
    pairs = [(passed, second[task][0]) for task, (passed,) in first.items()]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    low, high = paired_interval(only_first, only_second, len(pairs))
    return {
        "problems": len(pairs),
        "first": sum(a for a, _ in pairs) / len(pairs),
        "second": sum(b for _, b in pairs) / len(pairs),
        "difference": (only_first - only_second) / len(pairs),
        "low": low,
        "high": high,
        "p": mcnemar(only_first, only_second),
        "first_better": only_first,
        "second_better": only_second,
        "equal": len(pairs) - only_first - only_second,
    }


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


def robustness(base: Verdicts, perturbed: Verdicts) -> Json:
    """What a perturbation of the prompts costs in pass@1: `paired` of base (first) and perturbed (second).

    perturbed: the verdicts on the problems that the perturbation changed, and on no others: a problem that stayed as it
    was would only dilute the difference. Where it changed none there are only their number, and None for "p".
    """
    return paired({task: base[task] for task in perturbed}, perturbed) if perturbed else {"problems": 0, "p": None}
