"""pass@k, and the entries of scores.json."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from phi_jax.evaluation.execution import Records, decodings_of, verdicts_of
from phi_jax.evaluation.intervals import bootstrap_interval, wilson_interval
from phi_jax.evaluation.problems import Problem

KS = (1, 10, 100)  # of pass@k, where the samples allow it (Chen et al. 2021)
Scores = list[dict[str, Any]]  # as scores.json holds them


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes (Chen et al. 2021, equation 1).

    samples: drawn for the problem, at least k.
    """
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def scored(problems: Sequence[Problem], records: Records, *, model: str, benchmark: str) -> Scores:
    """The entries of a benchmark's records, each with prompt form, decoding and stop rule.

    EvalPlus's problems have two verdicts: on all of their tests, and on the base tests alone.
    """
    verdicts = {"passed": benchmark}
    if any("base_passed" in r for r in records):
        verdicts["base_passed"] = f"{benchmark} (base tests)"
    stop = ", ".join(sorted({p.stop for p in problems}))
    return [
        entry
        for verdict, name in verdicts.items()
        for decoding, form in decodings_of(records)
        for entry in entries(
            verdicts_of(records, decoding, form, verdict).values(),
            model=model, benchmark=name, prompt_form=form, decoding=decoding, stop=stop,
        )
    ]  # fmt: skip


def entries(verdicts_by_problem: Collection[Sequence[bool]], **about: Any) -> Scores:
    """The entries of scores.json, one for each k of KS that every problem has samples for.

    verdicts_by_problem: those of each problem's samples, at least one. about: model, benchmark, prompt_form, ...
    "interval" says how low and high came about: "wilson", with the problems as trials, for one sample a problem, and
    also where all problems have the same value, since a bootstrap would then be of no width (there it is on the safe
    side); "bootstrap" over the problems else. Samples of one problem are not independent and never count as trials.
    """
    counts = [(len(verdicts), sum(verdicts)) for verdicts in verdicts_by_problem]
    found = []
    for k in KS:
        if k > min(counts)[0]:
            break
        values = [pass_at_k(samples, passed, k) for samples, passed in counts]
        value = math.fsum(values) / len(values)
        bounds = None if max(counts)[0] == 1 else bootstrap_interval(values)
        low, high = bounds or wilson_interval(value, len(values))
        found.append(
            {
                **about,
                "metric": f"pass@{k}",
                "value": value,
                "low": low,
                "high": high,
                "interval": "bootstrap" if bounds else "wilson",
                "problems": len(values),
                "samples": sum(samples for samples, _ in counts),
            }
        )
    return found
