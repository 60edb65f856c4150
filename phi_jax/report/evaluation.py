"""What the evaluations left: scores, and comparisons of models and of perturbed prompts on the same problems.

Each table corrects its own p-values: "p_page" is Holm's over the rows that the page shows together.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from phi_jax.config import Config
from phi_jax.evaluation.comparison import Verdicts, holm, paired
from phi_jax.evaluation.evaluate import GREEDY, combined_scores
from phi_jax.evaluation.execution import forms_of, verdicts_of
from phi_jax.evaluation.judge import METRIC
from phi_jax.report import tables
from phi_jax.store.artifact import Artifact, Fields, Json

Row = Json
SIGNIFICANT = 0.05  # p-values, corrected, below which two models are told apart


def gather(evaluated: Sequence[Artifact]) -> Json:
    """What report.json says of the evaluations. evaluated: one artifact a model, at least one, of one config.

    -> "main" (the benchmark), "form" (of prompts: the first that the config asks for, of which all tables are),
    "scores" (the entries of scores.json but the judge's), "chosen" (model -> benchmark -> its greedy pass@1), "graded"
    (the same of the judge), "judged" (the judge's entries, each with what its "judge" holds, where "judge" is the
    grader's name), "too_long" (model -> benchmark/form -> prompts that do not fit the context), and rows of
    comparison.paired: "models" and "robustness".
    """
    form = _form(evaluated[0])
    scores = combined_scores(evaluated)
    chosen: dict[str, dict[str, dict[str, Row]]] = {"pass@1": {}, METRIC: {}}
    for score in scores:
        if score["metric"] in chosen and (score["decoding"], score["prompt_form"]) == (GREEDY, form):
            chosen[score["metric"]].setdefault(score["model"], {})[score["benchmark"]] = score
    return {
        "main": evaluated[0].facts["benchmark"],
        "form": form,
        "scores": [score for score in scores if score["metric"] != METRIC],
        "chosen": chosen["pass@1"],
        "graded": chosen[METRIC],
        "judged": [{**score, **score["judge"]} for score in scores if score["metric"] == METRIC],
        "too_long": {a.manifest["name"]: a.facts["prompts_too_long"] for a in evaluated},
        "models": of_models(verdicts(evaluated)),
        "robustness": of_perturbations(evaluated),
    }


def _form(of: Artifact) -> str:
    return forms_of(Config(of.manifest["config"]).evaluate.prompt_form)[0]


def verdicts(evaluated: Sequence[Artifact]) -> dict[str, dict[str, Verdicts]]:
    """benchmark -> model -> greedy verdicts in the form that `gather` says, the main benchmark first."""
    found: dict[str, dict[str, Verdicts]] = {}
    for artifact in evaluated:
        # A further benchmark is a directory with completions, and nothing else that the stage leaves is.
        further = sorted(artifact.directory.glob("*/completions.jsonl"))
        for file in (artifact.path("completions.jsonl"), *further):
            benchmark = file.parent.name if file in further else artifact.facts["benchmark"]
            records = [json.loads(line) for line in file.read_text().splitlines()]
            found.setdefault(benchmark, {})[artifact.manifest["name"]] = verdicts_of(records, GREEDY, _form(artifact))
    return found


def of_models(verdicts: Mapping[str, Mapping[str, Verdicts]]) -> list[Row]:
    """Every two models on the problems of every benchmark that both tried. verdicts: benchmark -> model -> verdicts.

    -> rows of comparison.paired with "group" (the benchmark), the names "one" and "other", and "p_page".
    """
    return _corrected(
        {"group": benchmark, "one": one, "other": other, **paired({t: first[t] for t in first if t in second}, second)}
        for benchmark, by_model in verdicts.items()
        for (one, first), (other, second) in itertools.combinations(by_model.items(), 2)
        if not first.keys().isdisjoint(second)
    )


def of_perturbations(evaluated: Iterable[Artifact]) -> list[Row]:
    """The rows of every model's robustness.json in one table, by perturbation ("group"), with "model" and "p_page"."""
    rows = [
        {"group": row["perturbation"], "model": a.manifest["name"], **row}
        for a in evaluated
        if "robustness.json" in a.manifest["outputs"]
        for row in json.loads(a.path("robustness.json").read_text())
    ]
    return _corrected(sorted(rows, key=lambda row: row["group"]))


def told_apart(found: Fields) -> list[str]:
    """A sentence a benchmark: which models cannot be told apart by it. found: as `gather` has it."""
    alike: dict[str, list[str]] = {}
    for row in found["models"]:
        if row["p_page"] >= SIGNIFICANT:
            alike.setdefault(row["group"], []).append(f"{row['one']} and {row['other']}")
    every = math.comb(len(found["chosen"]), 2)
    return [
        f"{'No two models can' if len(pairs) == every else ', '.join(pairs) + ' cannot'} be told apart on {benchmark}."
        for benchmark, pairs in alike.items()
    ]


def table(found: Fields) -> list[str]:
    """The lines for a terminal: models by benchmarks, and what cannot be told apart. found: as `gather` has it."""
    rows: list[list[Any]] = [
        ["", *(f"{name} ({s['problems']} problems)" for name, s in next(iter(found["chosen"].values())).items())]
    ]
    rows += [[model, *scores.values()] for model, scores in found["chosen"].items()]
    return [f"pass@1, greedy, prompts {found['form']}, 95 % intervals", *tables.lines(rows), *told_apart(found)]


def _corrected(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_page"] = p
    return rows
