"""What the page says of the evaluations: every score, the scores at a glance, and what a judge says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from phi_jax.config import Config
from phi_jax.evaluation.comparison import Verdicts
from phi_jax.evaluation.evaluate import GREEDY
from phi_jax.evaluation.execution import forms_of, verdicts_of
from phi_jax.evaluation.judge import METRIC, judge_table
from phi_jax.report import pairs
from phi_jax.report.figures import TO_FILL, card, columns, interval, muted, number, percent, scale
from phi_jax.store.artifact import Artifact

Score = Mapping[str, Any]  # an entry of scores.json

_INTERVALS = {"wilson": "Wilson", "bootstrap": "bootstrap"}


def gather(evaluated: Sequence[Artifact]) -> dict[str, Any]:
    """What the evaluations left, for report.json; the entries of scores.json stand beside it.

    evaluated: of the stage `evaluate`, one for each model and at least one, of one config. -> "main" (the benchmark), "forms" (the first is what tables without a form are of),
    "problems", "too_long" (model -> benchmark/form -> prompts that do not fit the context), and the tables of pairs.py.
    """
    rules = Config(evaluated[0].manifest["config"]).evaluate
    forms = forms_of(rules.prompt_form)
    verdicts = _verdicts(evaluated, forms)
    first = {benchmark: of_form[forms[0]] for benchmark, of_form in verdicts.items()}
    robustness = {
        a.manifest["name"]: json.loads(a.path("robustness.json").read_text())
        for a in evaluated
        if "robustness.json" in a.manifest["outputs"]
    }
    return {
        "main": evaluated[0].facts["benchmark"],
        "problems": evaluated[0].facts["problems"],
        "forms": list(forms),
        "too_long": {a.manifest["name"]: a.facts["prompts_too_long"] for a in evaluated},
        "prompt_forms": pairs.of_forms(verdicts, forms),
        "models": pairs.of_models(first),
        "robustness": pairs.of_perturbations(robustness),
    }


def _verdicts(evaluated: Sequence[Artifact], forms: Sequence[str]) -> dict[str, dict[str, dict[str, Verdicts]]]:
    """benchmark -> form -> model -> greedy verdicts, the main benchmark first."""
    found: dict[str, dict[str, dict[str, Verdicts]]] = {}
    for artifact in evaluated:
        main, outputs = artifact.facts["benchmark"], artifact.manifest["outputs"]
        files = {main: artifact.path("completions.jsonl")}
        for name in outputs:
            # A further benchmark is a directory of completions, and nothing else that the stage leaves is.
            if f"{outputs[name]['path']}/completions.jsonl" in artifact.manifest["files"]:
                files[name] = artifact.path(name) / "completions.jsonl"
        for benchmark, file in files.items():
            records = [json.loads(line) for line in file.read_text().splitlines()]
            for form in forms:
                of_form = found.setdefault(benchmark, {}).setdefault(form, {})
                of_form[artifact.manifest["name"]] = verdicts_of(records, GREEDY, form)
    return found


def greedy(scores: Sequence[Score], form: str) -> list[Score]:
    """The greedy pass@1 of every model and benchmark in one prompt form."""
    return [s for s in scores if (s["metric"], s["decoding"], s["prompt_form"]) == ("pass@1", GREEDY, form)]


def main_scores(data: Mapping[str, Any]) -> list[Score]:
    """The figure that each model is known by: greedy pass@1 on the main benchmark in the first prompt form.

    data: report.json's.
    """
    found = data["evaluation"]
    return list(_by_model(data["scores"], found["main"], found["forms"][0]).values())


# --- HTML ------------------------------------------------------------------------------------------------------------


def section(data: Mapping[str, Any]) -> str:
    """All that the evaluations left. data: report.json's."""
    found, scores = data["evaluation"], data["scores"]
    return (
        matrix(scores, found)
        + every_score(scores)
        + pairs.prompt_forms(found["prompt_forms"])
        + pairs.models(found["models"])
        + pairs.robustness(found["robustness"], found["main"], found["forms"][0])
        + judged(judge_table(scores))
    )


def _by_model(scores: Sequence[Score], benchmark: str, form: str) -> dict[str, Score]:
    return {s["model"]: s for s in greedy(scores, form) if s["benchmark"] == benchmark}


def matrix(scores: Sequence[Score], found: Mapping[str, Any]) -> str:
    """Models by benchmarks: who solves how much of what. found: what `gather` says."""
    form = found["forms"][0]
    chosen = greedy(scores, form)
    by_place = {(s["model"], s["benchmark"]): s for s in chosen}
    benchmarks = list(dict.fromkeys(s["benchmark"] for s in chosen))
    problems = {s["benchmark"]: number(s["problems"]) for s in chosen}
    rows = []
    for model in dict.fromkeys(s["model"] for s in chosen):
        cells = [f"<b>{escape(model)}</b>"]
        for benchmark in benchmarks:
            score = by_place.get((model, benchmark))
            # EvalPlus's base tests have a column of their own, of the same prompts.
            place = f"{benchmark.removesuffix(' (base tests)')}/{form}"
            cells.append(_cell(score, found["too_long"].get(model, {}).get(place, 0)) if score else TO_FILL)
        rows.append(cells)
    head = ["model", *(f"{escape(b)}<br>{muted(f'{problems[b]} problems')}" for b in benchmarks)]
    return (
        f'<p class="muted">pass@1, greedy, the newline at a prompt\'s end {escape(form)}, with 95 % intervals '
        "(Wilson). A prompt that does not fit the model's context counts as failed.</p>"
        + card(columns(head, rows, "matrix"))
    )


def _cell(score: Score, too_long: int) -> str:
    left_out = f'<br><span class="failed">{number(too_long)} prompts too long</span>' if too_long else ""
    return (
        f"<b>{percent(score['value'])}</b> {scale(score['value'], score['low'], score['high'])}"
        f"{muted(interval(score))}{left_out}"
    )


def every_score(scores: Sequence[Score]) -> str:
    """Every score that running completions gave, of any decoding, prompt form and k, with its interval."""
    rows = [
        [
            *(escape(s[name]) for name in ("model", "benchmark", "metric", "decoding", "prompt_form", "stop")),
            f"<span>{percent(s['value'])}</span>",
            f"<span>{interval(s)}</span><br>{muted(_INTERVALS[s['interval']])}",
            scale(s["value"], s["low"], s["high"]),
            f"{number(s['problems'])} / {number(s['samples'])}",
        ]
        for s in scores
        if s["metric"] != METRIC
    ]
    head = ["model", "benchmark", "metric", "decoding", "prompt's newline", "stop rule", "value", "95 % interval", "",
            "problems / samples"]  # fmt: skip
    return (
        f'<details class="card scroll"><summary>Every score: {len(rows)} entries</summary>{columns(head, rows)}'
        '<p class="muted">Wilson: of a share, the problems as trials. Bootstrap: BCa, over the problems, for several '
        "samples a problem.</p></details>"
    )


_JUDGED = (
    "A language model graded the completions against the reference, 0 to 10, here as a share of 10. Graded along was a "
    "gold set of completions that are known to be right or wrong: a judge that misses too many of it, or leaves too "
    "many completions without a grade, is refused and gives no score. Spread: standard deviation of the score over "
    "repeats. How far its grades agree with what running the completions said: point-biserial correlation (1: fully, "
    "0: not at all) and AUC (0.5: chance); neither is defined where all completions passed or all failed, nor the "
    "correlation where all have the same grade."
)


def judged(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a judge says, beside what running the completions said. rows: of judge_table."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        which = [escape(row[name]) for name in ("model", "benchmark", "decoding", "prompt_form")]
        how = f"mode {row['mode']}, {row['prompt']}, {row['repeats']} repeats"
        by = f"{escape(row['judge'])}<br>{muted(escape(how))}"
        gold = f"{number(row['gold_missed'])} of {number(row['gold_items'])}"
        if row["status"] == "refused":
            reasons = escape("; ".join(row["reasons"]))
            figures = [f'<span class="failed">refused</span><br>{muted(reasons)}', *[TO_FILL] * 3]
        else:
            share = f"<b>{percent(row['value'])}</b><br>{muted(interval(row))}"
            spread = TO_FILL if row["spread"] is None else f"{100 * row['spread']:.2f} points"
            figures = [share, spread, *(_correlation(row[name]) for name in ("point_biserial", "auc"))]
        lines.append([*which, by, *figures, gold])
    head = ["model", "benchmark", "decoding", "prompt's newline", "judge", "score", "spread", "point-biserial", "AUC",
            "gold missed"]  # fmt: skip
    return f'<h3>Graded by a judge</h3><p class="muted">{_JUDGED}</p>' + card(columns(head, lines))


def _correlation(value: float | None) -> str:
    return muted("not defined") if value is None else f"{value:.3f}"
