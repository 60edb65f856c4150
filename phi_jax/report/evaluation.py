"""What the evaluations left: scores, and comparisons on the same problems of models, prompt forms and perturbations.

Each table corrects its own p-values: "p_page" is Holm's over the rows that the page shows together.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from phi_jax.config import Config
from phi_jax.evaluation.comparison import Verdicts, holm, paired
from phi_jax.evaluation.evaluate import GREEDY
from phi_jax.evaluation.execution import forms_of, verdicts_of
from phi_jax.evaluation.judge import METRIC, judge_table
from phi_jax.store.artifact import Artifact

Row = dict[str, Any]
SIGNIFICANT = 0.05  # p-values, corrected, below which two models are told apart


def gather(evaluated: Sequence[Artifact]) -> dict[str, Any]:
    """What report.json says of the evaluations. evaluated: one artifact a model, at least one, of one config.

    -> "main" (the benchmark), "problems" (of it), "forms" (of prompts; tables without a form are of the first),
    "scores" (the entries of scores.json), "chosen" (model -> benchmark -> its greedy pass@1, first form), "judged"
    (rows of judge_table), "too_long" (model -> benchmark/form -> prompts that do not fit the context), and rows of
    comparison.paired: "models", "prompt_forms", "robustness".
    """
    forms = forms_of(Config(evaluated[0].manifest["config"]).evaluate.prompt_form)
    verdicts = {form: _verdicts(evaluated, form) for form in forms}
    scores = [score for a in evaluated for score in json.loads(a.path("scores.json").read_text())]
    chosen: dict[str, dict[str, Row]] = {}
    for score in scores:
        if (score["metric"], score["decoding"], score["prompt_form"]) == ("pass@1", GREEDY, forms[0]):
            chosen.setdefault(score["model"], {})[score["benchmark"]] = score
    return {
        "main": evaluated[0].facts["benchmark"],
        "problems": evaluated[0].facts["problems"],
        "forms": list(forms),
        "scores": [score for score in scores if score["metric"] != METRIC],
        "chosen": chosen,
        "judged": judge_table(scores),
        "too_long": {a.manifest["name"]: a.facts["prompts_too_long"] for a in evaluated},
        "models": of_models(verdicts[forms[0]]),
        "prompt_forms": of_forms(verdicts),
        "robustness": of_perturbations(evaluated),
    }


def _verdicts(evaluated: Iterable[Artifact], form: str) -> dict[str, dict[str, Verdicts]]:
    """benchmark -> model -> greedy verdicts, the main benchmark first."""
    found: dict[str, dict[str, Verdicts]] = {}
    for artifact in evaluated:
        files = {artifact.facts["benchmark"]: artifact.path("completions.jsonl")}
        for name, output in artifact.manifest["outputs"].items():
            # A further benchmark is a directory of completions, and nothing else that the stage leaves is.
            further = artifact.directory / output["path"] / "completions.jsonl"
            if further.exists():
                files[name] = further
        for benchmark, file in files.items():
            records = [json.loads(line) for line in file.read_text().splitlines()]
            found.setdefault(benchmark, {})[artifact.manifest["name"]] = verdicts_of(records, GREEDY, form)
    return found


def of_models(verdicts: Mapping[str, Mapping[str, Verdicts]]) -> list[Row]:
    """Every two models on every benchmark. verdicts: benchmark -> model -> verdicts.

    -> rows of comparison.paired with "group" (the benchmark), the names "one" and "other", and "p_page". Two that were
    not run on the same problems have a row whose "p" is None.
    """
    return _corrected(
        {"group": benchmark, "one": one, "other": other, **_paired(first, second)}
        for benchmark, by_model in verdicts.items()
        for (one, first), (other, second) in itertools.combinations(by_model.items(), 2)
    )


def of_forms(verdicts: Mapping[str, Mapping[str, Mapping[str, Verdicts]]]) -> list[Row]:
    """Both prompt forms of every benchmark and model; none where only one was run. verdicts: by form first.

    -> rows as of_models has them, with "model".
    """
    return _corrected(
        {"group": benchmark, "model": model, "one": one, "other": other, **_paired(first, second[benchmark][model])}
        for (one, by_benchmark), (other, second) in itertools.combinations(verdicts.items(), 2)
        for benchmark, by_model in by_benchmark.items()
        for model, first in by_model.items()
    )


def of_perturbations(evaluated: Iterable[Artifact]) -> list[Row]:
    """The rows of every model's robustness.json in one table, by perturbation ("group"), with "model" and "p_page"."""
    rows = [
        {"group": row["perturbation"], "model": a.manifest["name"], **row}
        for a in evaluated
        if "robustness.json" in a.manifest["outputs"]
        for row in json.loads(a.path("robustness.json").read_text())
    ]
    names = list(dict.fromkeys(row["group"] for row in rows))
    return _corrected(sorted(rows, key=lambda row: names.index(row["group"])))


def told_apart(found: Mapping[str, Any]) -> list[Row]:
    """The pairs of models on the main benchmark whose difference is hardly chance: "better", "worse", "p"."""
    return [
        {"better": one, "worse": other, "p": row["p_page"]}
        for row in found["models"]
        if row["group"] == found["main"] and row["p"] is not None and row["p_page"] < SIGNIFICANT
        for one, other in [(row["one"], row["other"]) if row["difference"] > 0 else (row["other"], row["one"])]
    ]


def _paired(first: Verdicts, second: Verdicts) -> Row:
    same = bool(first) and first.keys() == second.keys()
    return paired(first, second) if same else {"problems": None, "p": None}


def _corrected(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_page"] = p
    return rows
