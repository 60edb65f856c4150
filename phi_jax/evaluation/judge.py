"""Scores by a judge: a language model grades completions against the reference, beside what running them said.

The paper (section 4, Table 2) has GPT-4 give a short verbal evaluation first, then a grade from 0 to 10. It publishes
neither the prompt nor the problems: the prompt here (prompts/judge_paper.v1.md) is ours. Graded in the same run, by the
same prompt, is a gold set of completions whose grade is known: a judge that misses too many of them is refused, and
publishes no score. Replies come through the teacher's journal: a second run asks nothing and writes the same.
"""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.execution import Records, decodings_of, shown_prompt
from phi_jax.evaluation.intervals import bootstrap_interval
from phi_jax.evaluation.problems import Problem, load_problems
from phi_jax.evaluation.scores import Scores
from phi_jax.progress import note
from phi_jax.store.artifact import Json
from phi_jax.teacher.request import Request, Status
from phi_jax.teacher.teachers import Teachers
from phi_jax.teacher.templates import fence, read_template
from phi_jax.teacher.votes import Question, vote_of, vote_requests

METRIC = "judge"
TOP = 10  # of the grades; a score is their mean divided by it
ALLOWED = 0.1  # share of the gold items that may miss their bands, and of a model's completions without any grade
# Kind of a gold item -> (lowest, highest) mean grade, both included. Ours, set before any judge was asked.
BANDS = {
    "reference": (9, 10),  # the reference itself
    "rewrite": (9, 10),  # the same behaviour in other words
    "off_by_one": (2, 8),  # the right idea with a bound that is off by one
    "empty": (0, 1),  # does nothing
    "plausible": (0, 5),  # well-formed code for another problem than the one asked
}
Grades = list[Json]  # {"mean", "grades", "outcomes", "evaluations"}: None where a repeat gave no grade


def judge_records(
    rules: Config,
    teachers: Teachers,
    problems: Sequence[Problem],
    records: Records,
    *,
    model: str,
    benchmark: str,
) -> tuple[Scores, Grades, Grades]:
    """(an entry for each prompt form and decoding, the grades of each record, those of each item of the gold set).

    rules: config.judge. records: native ones, of which task_id, completion, prompt_form, decoding, sample and passed
    are read. model, benchmark: as they stand in the entries.

    Each distinct program is graded rules.repeats times, by requests that differ in their seed. A reply that is no grade
    (refused, cut, malformed to the last attempt) is an outcome, which is counted; a completion without any grade is
    left out of the means, and a result with too many of them is refused. Raises UserError where rules.grader lists
    several, for a problem without a reference, and as Teachers.ask.
    """
    shares = teachers.shares(rules.grader)
    if len(shares) > 1:
        raise UserError(f"config.judge.grader={rules.grader!r}: lists several graders; give exactly one")
    (grader,) = shares
    one = Request("", (), rules.max_tokens, rules.temperature, schema=PaperGrade, label=METRIC)
    votes = functools.partial(vote_requests, shares=shares, asked=one, votes=rules.repeats)
    by_id = {p.task_id: p for p in problems}
    kept = ("task_id", "sample", "prompt_form", "decoding", "passed")
    asked = [
        ({name: r[name] for name in kept}, question_of(by_id[r["task_id"]], r["completion"], r["prompt_form"]))
        for r in records
    ]
    asked_gold = [
        ({"item": f"{problem.task_id} {kind}", "kind": kind}, question_of(problem, completion, "kept"))
        for problem, kind, completion in gold_items()
    ]
    # By their marks, which are hashes: the gold set's questions stand anywhere among the others.
    distinct = sorted({question for _, question in asked + asked_gold})
    teachers.ask(lambda: (vote for q in distinct for vote in votes(q)), METRIC, len(distinct) * rules.repeats)
    grades, gold = (
        [{**about, **_grades([vote_of(teachers, vote) for vote in votes(q)])} for about, q in part]
        for part in (asked, asked_gold)
    )
    entries = []
    for decoding, form in decodings_of(grades):
        chosen = [row for row in grades if (row["decoding"], row["prompt_form"]) == (decoding, form)]
        reasons = _reasons(chosen, gold)
        value, low, high = (None, None, None) if reasons else _score(chosen)
        entries.append(
            {
                "model": model,
                "benchmark": benchmark,
                "prompt_form": form,
                "decoding": decoding,
                "metric": METRIC,
                "value": value,
                "low": low,
                "high": high,
                "problems": len({row["task_id"] for row in chosen}),
                "samples": len(chosen),
                "judge": {
                    "judge": grader.model,
                    "prompt": _template().name,
                    "repeats": rules.repeats,
                    "status": "refused" if reasons else "published",
                    "reasons": reasons,
                    "gold_items": len(gold),
                    "gold_missed": sum(map(is_missed, gold)),
                },
            }
        )
        if reasons:
            note(f"judge of {model} on {benchmark}, {decoding}: REFUSED, no score is published: {'; '.join(reasons)}")
    return entries, grades, gold


# --- What is asked ---------------------------------------------------------------------------------------------


def question_of(problem: Problem, completion: str, form: str) -> Question:
    """One completion as the grader sees it, between lines with a mark that no text can hold; the mark identifies it.

    form: of the prompt that the completion goes behind. Raises UserError for a problem without a reference.
    """
    if problem.reference is None:
        raise UserError(
            f"problem {problem.task_id} has no reference solution to grade against; give it one in the field "
            "canonical_solution, or turn the judge off with --config.judge.grader="
        )
    texts = {
        "problem": problem.prompt,
        "reference": problem.prompt + problem.reference,
        "solution": shown_prompt(problem.prompt, form) + completion,
    }
    # "?" for lone surrogates, which a file of completions can hold and UTF-8 cannot.
    shown = {name: text.removesuffix("\n").encode(errors="replace").decode() for name, text in texts.items()}
    mark = fence(*shown.values())
    return mark, _template().messages(fence=mark, **shown)


@functools.cache
def gold_items() -> tuple[tuple[Problem, str, str], ...]:
    """(problem, kind of BANDS, completion behind the whole prompt) of each item of the gold set."""
    return tuple(
        (problem, kind, {"reference": problem.reference, **problem.row["completions"]}[kind])
        for problem in load_problems(str(Path(__file__).with_name("judge_gold.jsonl")))[1]
        for kind in BANDS
    )


# The evaluation stands first, so that a model argues before it decides. No docstring: it would be part of what is sent.
class PaperGrade(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    evaluation: str
    grade: int = pydantic.Field(ge=0, le=TOP)


def _template() -> Any:
    return read_template(Path(__file__).with_name("prompts") / "judge_paper.v1.md")


def _grades(votes: Sequence[tuple[Status, Any]]) -> Json:
    """See Grades. votes: as votes.vote_of has them."""
    answers = [answer for _, answer in votes]
    given = [answer.grade for answer in answers if answer]
    return {
        "mean": statistics.fmean(given) if given else None,
        "grades": [answer and answer.grade for answer in answers],
        "outcomes": [outcome for outcome, _ in votes],
        "evaluations": [answer and answer.evaluation for answer in answers],
    }


# --- What comes of it ------------------------------------------------------------------------------------------


def is_missed(row: Json) -> bool:
    """Whether a gold item's mean grade lies outside its band, or there is none."""
    low, high = BANDS[row["kind"]]
    return row["mean"] is None or not low <= row["mean"] <= high


def _reasons(rows: Grades, gold: Grades) -> list[str]:
    """Why the result is refused; none where it is published."""
    reasons = []
    missed = [row for row in gold if is_missed(row)]
    if len(missed) > ALLOWED * len(gold):
        told = ", ".join(f"{row['item']} {row['mean']}" for row in missed)
        reasons.append(f"{len(missed)} of {len(gold)} gold items miss their bands, at most {ALLOWED:.0%} may: {told}")
    ungraded = sum(row["mean"] is None for row in rows)
    if ungraded > ALLOWED * len(rows):
        reasons.append(f"{ungraded} of {len(rows)} completions have no grade, at most {ALLOWED:.0%} may")
    return reasons


def _score(rows: Grades) -> tuple[float, float, float]:
    """(mean over problems of their mean grades, 0 to 1, its 95 % interval), of the completions that have a grade."""
    by_problem: dict[str, list[float]] = {}
    for row in rows:
        if row["mean"] is not None:
            by_problem.setdefault(row["task_id"], []).append(row["mean"] / TOP)
    means = [statistics.fmean(values) for values in by_problem.values()]
    value = statistics.fmean(means)
    return value, *(bootstrap_interval(means) or (value, value))  # where all are the same, no spread is known
