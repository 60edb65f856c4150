"""Comparisons on the same problems: models, prompt forms, prompts with and without errors.

Each table corrects its own p-values: "p_page" is Holm's over the rows that the page shows together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from phi_jax.evaluation.comparison import Verdicts, holm, paired
from phi_jax.report.figures import TO_FILL, card, columns, muted, number, percent, probability, scale, signed

Row = dict[str, Any]


def of_models(verdicts: Mapping[str, Mapping[str, Verdicts]]) -> list[Row]:
    """Every two models on every benchmark. verdicts: benchmark -> model -> greedy verdicts, in one prompt form.

    -> rows of comparison.paired with "benchmark", the names "first_model" and "second_model", and "p_page". Two that
    were not run on the same problems have a row whose figures are None.
    """
    return _corrected(
        [
            {"benchmark": benchmark, "first_model": one, "second_model": other, **_paired(first, second)}
            for benchmark, by_model in verdicts.items()
            for (one, first), (other, second) in itertools.combinations(by_model.items(), 2)
        ]
    )


def of_forms(verdicts: Mapping[str, Mapping[str, Mapping[str, Verdicts]]], forms: Sequence[str]) -> list[Row]:
    """Both prompt forms of every benchmark and model; none where only one was run.

    verdicts: benchmark -> form -> model -> greedy verdicts. -> rows as of_models has them, with "model",
    "first_form" and "second_form".
    """
    return _corrected(
        [
            {"benchmark": benchmark, "model": model, "first_form": one, "second_form": other,
             **_paired(first, of_form[other][model])}
            for benchmark, of_form in verdicts.items()
            for one, other in itertools.combinations(forms, 2)
            for model, first in of_form[one].items()
        ]
    )  # fmt: skip


def of_perturbations(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """The rows of every model's robustness.json in one table, by perturbation. rows: by model.

    robustness.json's own "p_holm" is corrected for one model's rows; "p_page" for all of these.
    """
    names = dict.fromkeys(row["perturbation"] for of_model in rows.values() for row in of_model)
    return _corrected(
        [
            {**row, "model": model}
            for name in names
            for model, of_model in rows.items()
            for row in of_model
            if row["perturbation"] == name
        ]
    )


def _paired(first: Verdicts, second: Verdicts) -> Row:
    same = bool(first) and first.keys() == second.keys()
    return paired(first, second) if same else {"problems": None, "p": None}


def _corrected(rows: list[Row]) -> list[Row]:
    tested = [row for row in rows if row["p"] is not None]
    corrected = dict(zip(map(id, tested), holm([row["p"] for row in tested]), strict=True))
    return [{**row, "p_page": corrected.get(id(row))} for row in rows]


# --- HTML ------------------------------------------------------------------------------------------------------------

_FIGURES = ["difference", "95 % interval, points", "", "only one solved", "p", "p, corrected"]
_HOW = (
    "Differences of pass@1 in percentage points, on the same problems, greedy: paired 95 % intervals (Newcombe), exact "
    "p-values by McNemar's test"
)


def models(rows: Sequence[Row]) -> str:
    """Which model is better, and whether it could be chance."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        which = [escape(row["benchmark"]), f"{escape(row['first_model'])} − {escape(row['second_model'])}"]
        lines.append([*which, *_compared(row, "difference")])
    return (
        "<h3>Models compared in pairs</h3>"
        f'<p class="muted">{_HOW}, corrected by Holm for the {_tests(rows)} of this table. Only one solved: problems '
        "that only the first of the two solved, and only the second.</p>"
        + card(columns(["benchmark", "models", *_FIGURES], lines))
    )


def prompt_forms(rows: Sequence[Row]) -> str:
    """What the newline at a prompt's end makes."""
    if not rows:
        return ""
    one, other = escape(rows[0]["first_form"]), escape(rows[0]["second_form"])
    lines = [
        [
            escape(row["benchmark"]),
            escape(row["model"]),
            *([percent(row["first"]), percent(row["second"])] if row["p"] is not None else [TO_FILL] * 2),
            *_compared(row, "difference"),
        ]
        for row in rows
    ]
    return (
        "<h3>The newline at a prompt's end</h3>"
        f'<p class="muted">The same prompts with it {one} and {other}: to a tokenizer these are two prompts. {_HOW}, '
        f"corrected by Holm for the {_tests(rows)} of this table.</p>"
        + card(columns(["benchmark", "model", one, other, *_FIGURES], lines))
    )


MEANINGS = {
    "typos": "misspells words of three letters or more, as fingers do",
    "grammar": "leaves out articles and commas, breaks agreement, takes the wrong preposition",
    "paraphrase": "says the same in other words, by rule",
    "rename_function": "calls the function func",
    "rename_arguments": "calls the arguments p, q, r ...",
}


def robustness(rows: Sequence[Row], benchmark: str, form: str) -> str:
    """How far the scores hang on the wording of the prompts."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        counts = f"{number(row['problems'])} / {number(row['unchanged'])} / "
        which = [escape(row["perturbation"]), escape(row["model"]), counts + number(row["not_applicable"])]
        if row["problems"]:
            shares = f"<span>{percent(row['first'])} → {percent(row['second'])}</span>"
            lines.append([*which, shares, *_compared(row, "drop")])
        else:
            lines.append([*which, muted("no prompt changed"), *[TO_FILL] * len(_FIGURES)])
    head = ["perturbation", "model", "changed / un&shy;changed / n.a.", "pass@1", "drop", *_FIGURES[1:]]
    does = {row["perturbation"]: _rate(row) + MEANINGS[row["perturbation"]] for row in rows}
    meanings = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in does.items())
    return (
        "<h3>Prompts perturbed</h3>"
        f'<p class="muted">What it costs to ask {escape(benchmark)} otherwise (greedy, the prompt\'s newline '
        f"{escape(form)}). A drop above 0: worse when perturbed. Compared on the problems whose prompt changed; "
        "unchanged: the draw left it as it was; n.a.: not applicable, it has nothing that could change. Tests change "
        f"along, so that a right solution stays right. {_HOW}, corrected by Holm for the {_tests(rows)} of this "
        "table.</p>" + card(f"{columns(head, lines)}<dl>{meanings}</dl>")
    )


def _rate(row: Row) -> str:
    return f"with a chance of {percent(row['rate'])} at each place, " if row["rate"] < 1 else "wherever it can, "


def _compared(row: Row, name: str) -> list[str]:
    """The cells of _FIGURES. name: of the difference."""
    if row["p"] is None:
        return [muted("not the same problems"), *[TO_FILL] * 5]
    low, high = row["low"], row["high"]
    interval = muted("not known") if low is None or high is None else f"<span>{signed(low)} to {signed(high)}</span>"
    return [
        f"<b>{signed(row[name])}</b>",
        interval,
        scale(row[name], low, high, bottom=-1.0),
        f"<span>{number(row['first_better'])} / {number(row['second_better'])}</span>",
        f"<span>{probability(row['p'])}</span>",
        f"<span>{probability(row['p_page'])}</span>",
    ]


def _tests(rows: Sequence[Row]) -> str:
    count = sum(row["p"] is not None for row in rows)
    return f"{count} tests" if count != 1 else "one test"
