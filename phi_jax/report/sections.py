"""The parts of the page as HTML, each from what report.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from phi_jax.report import evaluation, writing
from phi_jax.report.chart import Bar, bar_chart, histogram, line_chart
from phi_jax.report.figures import number, percent, show, table

_SHOWN_FACTS = 8  # of a fact that is a table
_TRAINED_ON = {
    "raw": "unfiltered code",
    "base": "filtered code and textbooks, as many tokens",
    "finetuned": "base, then exercises",
    "raw+exercises": "raw, then the same exercises: the control",
}


def headline(data: dict[str, Any]) -> str:
    """The figures that a reader looks for first."""
    stages = data["stages"]
    figures = [
        (number(stages["collect/python"]["kept"]), "files collected"),
        (number(stages["dedup/python"]["kept"]), "after deduplication"),
        (number(stages["filter/python"]["kept"]), "kept by the filter"),
        writing.headline(writing.synthesized(stages)),
        (number(stages["pretrain/base"]["parameters"]), "parameters"),
    ]
    return (
        '<div class="figures">'
        + "".join(f"<div><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in figures)
        + "</div>"
    )


def bars(data: dict[str, Any]) -> str:
    """Our scores with intervals beside the paper's Figure 2.1: another benchmark, other models, so another look."""
    ours = [
        Bar(s["model"], 100 * s["value"], (100 * s["low"], 100 * s["high"]), percent(s["value"]))
        for s in evaluation.main_scores(data)
    ]
    benchmark, problems = data["evaluation"]["main"], number(data["evaluation"]["problems"])
    parameters = number(data["stages"]["pretrain/base"]["parameters"])
    caveat = escape(writing.caveat(writing.synthesized(data["stages"]), benchmark))
    trained_on = "".join(f"<dt>{escape(model)}</dt><dd>{escape(_TRAINED_ON[model])}</dd>" for model in _TRAINED_ON)
    measured = (
        f'<figure><h3>Measured in this run <span class="muted">{escape(benchmark)}, {problems} '
        f"problems, {parameters} parameters, greedy pass@1, 95 % intervals</span></h3>"
        f"{bar_chart(ours, kind='measured')}<dl>{trained_on}</dl>"
        f"<p>Not comparable with the paper's, whose models have 350M and 1.3B parameters: {caveat}. This run shows "
        "that the pipeline works from end to end, not that the paper is right.</p></figure>"
    )
    paper = data["figure_2_1"]
    quoted = "".join(
        f"<h4>{escape(group['name'])}</h4>"
        + bar_chart(
            [
                Bar(label, value, None, f"{value} %" + (" *" if unsure else ""))
                for label, value, unsure in zip(paper["bars"], group["values"], group["uncertain"], strict=True)
            ],
            kind="quoted",
        )
        for group in paper["groups"]
    )
    beside = (
        f'<figure><h3>Quoted from the paper <span class="muted">Figure 2.1: {escape(paper["benchmark"])}, 350M and '
        f"1.3B parameters</span></h3>{quoted}"
        '<p class="muted">* from memory or second-hand, not from the text.</p></figure>'
    )
    return f'<div class="cards wide">{measured}{beside}</div>'


def losses(runs: Mapping[str, dict[str, list[list[float]]]]) -> str:
    """A chart for each training run, and one of pass@1 where it was taken more than once."""
    charts = []
    for label, run in runs.items():
        series = [("training", run["training"])]
        if run["validation"]:
            series.append(("validation", run["validation"]))
        last = f"last {run['training'][-1][1]:.3f}"
        if run["validation"]:
            last += f", validation {run['validation'][-1][1]:.3f}"
        chart = line_chart(series, x_label="step", y_label="loss (nats)")
        title = f'{escape(label)} <span class="muted">{last}</span>'
        solved = [(step, 100 * share) for step, share in run["pass_at_1"]]
        if solved:
            step, share = run["pass_at_1"][-1]
            title += f' <span class="muted">validation pass@1 {percent(share)} at step {number(int(step))}</span>'
        if len(solved) > 1:
            chart += line_chart([("validation pass@1 (%)", solved)], x_label="step", y_label="pass@1 (%)", height=130)
        charts.append(f'<div class="run"><h3>{title}</h3>{chart}</div>')
    return f'<div class="cards wide">{"".join(charts)}</div>'


def filter_quality(facts: Mapping[str, Any]) -> str:
    """How well the forest predicts the grades, and how much of that is comments."""
    recall = facts["recall"]
    rows = [
        ("ROC AUC on held-out grades", show(facts["roc_auc"])),
        ("recall of high", show(recall["high"])),
        ("recall of low", show(recall["low"])),
        *_by_band(facts["recall_bands"]),
        ("kept / dropped files", f"{number(facts['kept'])} / {number(facts['dropped'])}"),
        ("tokens kept", number(facts["tokens"])),
        ("score of the last file kept", f"{facts['threshold']:.3f}"),
    ]
    if facts["comment_share"]:
        for name, share in facts["comment_share"].items():
            rows.append((f"share of the {name} that is comments", percent(share)))
        rows.append(("ROC AUC without comments", show(facts["roc_auc_stripped"])))
    return f'<div class="card">{table(rows)}</div>'


def _by_band(bands: Sequence[Sequence[int]]) -> list[tuple[str, str]]:
    """bands: [on their side of a score of 0.5, all] of the held-out files in each of equal bands of grades."""
    width = 1 / len(bands)
    return [
        (f"grades {n * width:.1f} to {(n + 1) * width:.1f}: told right", f"{number(right)} of {number(count)}")
        for n, (right, count) in enumerate(bands)
    ]


def filter_histogram(facts: Mapping[str, Any]) -> str:
    """All files by score, the kept ones marked."""
    chart = histogram(facts["histogram"], facts["histogram_kept"], label="score")
    legend = '<span><i class="all"></i>all files</span><span><i class="part"></i>kept</span>'
    return f"<figure>{chart}<figcaption>{legend}</figcaption></figure>"


def files(examples: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Kept and dropped files in two columns."""
    columns = []
    for side, chosen in examples.items():
        cards = "".join(
            f'<div class="card"><h3>{escape(f["path"])}</h3><p class="muted">{escape(f["source"])}, score '
            f"{f['score']:.3f}</p><pre>{escape(chr(10).join(f['lines']))}</pre></div>"
            for f in chosen
        )
        columns.append(f'<div class="column"><h3 class="{side}">{escape(side)}</h3>{cards}</div>')
    return f'<div class="cards wide">{"".join(columns)}</div>'


def sample(shown: dict[str, Any]) -> str:
    """One problem and what each model made of it."""
    parts = [
        f'<div class="card"><h3>{escape(shown["task_id"])}</h3><pre class="prompt">{escape(shown["prompt"])}</pre>'
    ]
    for model, completion in shown["completions"].items():
        kind = "passed" if completion["passed"] else "failed"
        parts.append(
            f'<h4>{escape(model)} <span class="verdict {kind}">{escape(completion["result"])}</span></h4>'
            f"<pre>{escape(completion['completion'].strip(chr(10)).rstrip())}</pre>"
        )
    return "".join(parts) + "</div>"


def stage(label: str, facts: Mapping[str, Any], seconds: float) -> str:
    """What a stage says of itself."""
    rows = _flat(facts)
    heading = f'{escape(label)} <span class="muted">{seconds:.1f} s</span>'
    return f'<div class="card scroll"><h3>{heading}</h3>{table(rows)}</div>'


def _flat(facts: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        label = before + name.replace("_", " ")
        if isinstance(value, dict):
            inner = _flat(value, f"{label}: ")
            rows += inner[:_SHOWN_FACTS]
            if len(inner) > _SHOWN_FACTS:
                rows.append((f"{label}: {len(inner) - _SHOWN_FACTS} more", "in report.json"))
        elif isinstance(value, list):
            rows.append((label, "in report.json"))
        else:
            rows.append((label, show(value)))
    return rows


def reading(rows: Sequence[dict[str, Any]]) -> str:
    """Files for a reader to grade."""
    cards = "".join(
        f'<details class="card"><summary>{number_} {escape(r["path"])} <span class="muted">{escape(r["source"])}, '
        f"{number(r['lines'])} lines</span></summary><pre>{escape(r['begins'])}</pre></details>"
        for number_, r in enumerate(rows, 1)
    )
    return f'<details class="card"><summary>{len(rows)} files</summary>{cards}</details>'


def details(title: str, text: str) -> str:
    """A text that unfolds."""
    return f'<details class="card"><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>'
