"""Scores by a judge: a language model grades completions against the reference, beside what running them said.

Graded along in the same run, by the same prompt, is the gold set (gold.py). Where the judge fails on it the result is
refused: the entry says why, and holds no score. Asked is through the teacher's journal, so that entries are a function
of the replies in it: a second run asks nothing and writes the same.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phi_jax.config import Config
from phi_jax.evaluation.agreement import auc, deviation, point_biserial
from phi_jax.evaluation.gold import GoldCheck, check_gold, gold_items
from phi_jax.evaluation.intervals import bootstrap_interval
from phi_jax.evaluation.problems import Problem
from phi_jax.progress import say

if TYPE_CHECKING:
    from phi_jax.evaluation.grading import Grading
    from phi_jax.teacher.teachers import Teachers

METRIC = "judge"
UNGRADED_ALLOWED = 0.1  # share of a model's completions that may be left without any grade
_TOP = 10  # of the grades; a score is their mean divided by it
Graded = tuple[Mapping[str, Any], "Grading"]  # a native record of evaluation and what the judge said of it


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a judge said of one model's completions of one benchmark."""

    entries: list[dict[str, Any]]  # for scores.json, one for each prompt form and decoding
    grades: list[dict[str, Any]]  # one a record, in their order, with every repeat
    gold: list[dict[str, Any]]  # one an item of the gold set, with every repeat


def judge_records(
    rules: Config,
    faculty: Teachers,
    problems: Sequence[Problem],
    records: Sequence[Mapping[str, Any]],
    *,
    model: str,
    benchmark: str,
    stop: str,
    label: str = METRIC,
) -> Judgement:
    """Has the completions and the gold set graded, and scores them.

    rules: config.judge. records: native ones, of which task_id, completion, prompt_form, decoding, sample and passed
    are read. model, benchmark, stop: as they stand in the entries.

    Each distinct pair of problem and completion is graded rules.repeats times, by requests that differ in their seed.
    A reply that is no grade (refused, cut, malformed to the last attempt) is an outcome, which is counted; a completion
    without any grade is left out of the means, and a result with too many of them is refused. Raises UserError for
    fields of `rules` out of range, a grader that is not there or a problem without a reference, and as Teachers.ask.
    """
    from phi_jax.evaluation.grading import Grader, Question

    grader = Grader.of(faculty, rules)
    by_id = {p.task_id: p for p in problems}
    which = [(r["task_id"], r["completion"], r["prompt_form"]) for r in records]
    asked = {one: Question.of(by_id[one[0]], *one[1:]) for one in dict.fromkeys(which)}
    gold = [Question.of(item.problem, item.completion, "kept") for item in gold_items()]
    requests = grader.requests([*asked.values(), *gold])
    faculty.ask(lambda: requests, label, len(requests))

    check = check_gold([grader.grading(question) for question in gold])
    said = {one: grader.grading(question) for one, question in asked.items()}
    judged: list[Graded] = [(r, said[one]) for r, one in zip(records, which, strict=True)]
    about = {
        "mode": rules.mode,
        "model": grader.endpoint.model,
        "prompt": grader.prompt_note(),
        "repeats": rules.repeats,
        "temperature": rules.temperature,
    }
    entries = []
    for form, decoding in dict.fromkeys((r["prompt_form"], r["decoding"]) for r in records):
        how = {"model": model, "benchmark": benchmark, "prompt_form": form, "decoding": decoding, "stop": stop}
        chosen = [(r, g) for r, g in judged if (r["prompt_form"], r["decoding"]) == (form, decoding)]
        entries.append({**how, **_scored(chosen, check, about)})
        for reason in entries[-1]["judge"]["reasons"]:
            say(f"judge of {model} on {benchmark}, {decoding}: REFUSED, no score is published: {reason}")
    return Judgement(entries, [_row(r, g) for r, g in judged], check.rows)


def judge_table(scores: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The judge's entries among `scores` as rows of plain data, in their order.

    Scores are 0 to 1, None where refused; agreement with execution is None where one of passed and failed is missing.
    """
    rows = []
    for entry in scores:
        if entry["metric"] != METRIC:
            continue
        judge = entry["judge"]
        execution = judge["execution"] or {}
        rows.append(
            {
                **{name: entry[name] for name in ("model", "benchmark", "prompt_form", "decoding")},
                **{name: entry[name] for name in ("value", "low", "high", "problems", "samples")},
                **{name: judge[name] for name in ("mode", "repeats", "spread", "status", "reasons")},
                "judge": judge["model"],
                "prompt": judge["prompt"]["version"],
                "point_biserial": execution.get("point_biserial"),
                "auc": execution.get("auc"),
                "executed": execution.get("n"),
                "gold_items": judge["gold"]["items"],
                "gold_missed": len(judge["gold"]["missed"]),
            }
        )
    return rows


def _scored(judged: Sequence[Graded], check: GoldCheck, about: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one decoding's entry."""
    graded = [(r, g) for r, g in judged if g.mean is not None]
    reasons = list(check.reasons)
    ungraded = len(judged) - len(graded)
    if ungraded > UNGRADED_ALLOWED * len(judged):
        most = int(UNGRADED_ALLOWED * len(judged))
        reasons.append(
            f"{ungraded} of {len(judged)} completions have no grade, at most {most} may: a mean of the others would "
            "say little of them all"
        )
    distinct = {(r["task_id"], r["completion"]): g for r, g in judged}
    judge = {
        **about,
        "status": "refused" if reasons else "published",
        "reasons": reasons,
        "outcomes": dict(sorted(Counter(o for g in distinct.values() for o in g.outcomes).items())),
        "ungraded": ungraded,
        # No figure that is made of the grades stands in an entry that is refused.
        "spread": None,
        "deviation": None,
        "execution": None,
        "answers": None,
        "gold": check.note(),
    }
    value = low = high = None
    if not reasons:
        means = _problem_means((r["task_id"], g.mean) for r, g in graded)
        value = statistics.fmean(means)
        low, high = bootstrap_interval(means) or (value, value)  # where all are the same, nothing is known of a spread
        judge |= _agreement(graded)
    return {
        "metric": METRIC,
        "value": _rounded(value),
        "low": _rounded(low),
        "high": _rounded(high),
        "problems": len({r["task_id"] for r, _ in judged}),
        "samples": len(judged),
        "judge": judge,
    }


def _agreement(graded: Sequence[Graded]) -> dict[str, Any]:
    """Of the repeats with each other, and of the grades with what running the completions said.

    spread: standard deviation over repeats of the model's score, 0 to 1, of the completions that every repeat graded.
    deviation: mean over completions of the standard deviation of one completion's grades, 0 to 10.
    """
    whole = [(r["task_id"], g.grades) for r, g in graded if None not in g.grades]
    repeats = len(graded[0][1].grades) if whole else 0
    scores = [statistics.fmean(_problem_means((task, grades[n]) for task, grades in whole)) for n in range(repeats)]
    deviations = [g.deviation for _, g in graded if g.deviation is not None]
    means, passed = [g.mean for _, g in graded if g.mean is not None], [bool(r["passed"]) for r, _ in graded]
    return {
        "spread": _rounded(deviation(scores)),
        "deviation": _rounded(statistics.fmean(deviations) if deviations else None),
        "execution": {
            "n": len(graded),
            "passed": sum(passed),
            "point_biserial": _rounded(point_biserial(means, passed)),
            "auc": _rounded(auc(means, passed)),
        },
        "answers": _answers(graded),
    }


def _answers(graded: Sequence[Graded]) -> dict[str, float] | None:
    """Share of yes to each question of mode "rubric", and of the answers to would_pass that running bore out."""
    given = [(answers, bool(r["passed"])) for r, g in graded for answers in g.answers if answers]
    if not given:
        return None
    shares = {name: statistics.fmean(answers[name] for answers, _ in given) for name in given[0][0]}
    borne_out = statistics.fmean(answers["would_pass"] == passed for answers, passed in given)
    return {**{name: round(share, 6) for name, share in shares.items()}, "would_pass_borne_out": round(borne_out, 6)}


def _problem_means(grades: Iterable[tuple[str, float | None]]) -> list[float]:
    """(task_id, grade) of completions -> the mean of each problem's, 0 to 1, in their order."""
    by_problem: dict[str, list[float]] = {}
    for task, grade in grades:
        if grade is not None:
            by_problem.setdefault(task, []).append(grade / _TOP)
    return [statistics.fmean(values) for values in by_problem.values()]


def _row(record: Mapping[str, Any], grading: Grading) -> dict[str, Any]:
    return {
        **{name: record[name] for name in ("task_id", "sample", "prompt_form", "decoding", "passed")},
        "mean": _rounded(grading.mean),
        "deviation": _rounded(grading.deviation),
        "grades": list(grading.grades),
        "outcomes": list(grading.outcomes),
        "evaluations": list(grading.evaluations),
        "answers": list(grading.answers),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
