"""The page of a sweep: the models of every point, over seeds if there are several, and the paper's; two compared."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax.evaluation.comparison import Verdicts
from phi_jax.report import evaluation
from phi_jax.report.page import TRAININGS, environment, losses, of_stage, percent, probability, signed
from phi_jax.report.table_3 import Made, experiment, table_3
from phi_jax.report.tables import PAPER, lines, over_seeds
from phi_jax.store.artifact import Fields, Json, differences, write_atomic, write_json


def gather(
    title: str,
    points: Mapping[str, Made],
    seed: str,
    paper: Fields,
    also: Mapping[str, list[Json]],
    plans: Mapping[str, Fields],
) -> Json:
    """All that the page shows. seed: the field whose values are repetitions of one experiment.

    paper: {"says": what its numbers are, "rows": row -> number}. also: name -> scores.json of another evaluation, for
    Table 1. plans: point -> label -> planning.pipeline_plan.StagePlan.

    -> "rows": a row for each model of each experiment (the first that has it), with "row" (its name), "experiment",
    "model", "points" (one a seed), "parameters", "tokens" (of its last training), "validation_loss" (mean, nats),
    "scores": benchmark -> as over_seeds has it, "graded": the same by a judge, "paper" (its number, or ""). "table_3":
    its rows. "stages": of each artifact, what points share once, "stage", "planned" (its StagePlan), "seconds",
    "tokens" (0 where it counts none), "disk" (bytes) and "teachers" (as Teachers.note has each).
    """
    first: dict[str, str] = {}
    seeds: dict[tuple[str, str], list[Any]] = {}
    for name, made in points.items():
        own, found = experiment(name, seed), evaluation.gather(of_stage(made, "evaluate"))
        for training in of_stage(made, *TRAININGS):
            model = training.manifest["name"]
            if first.setdefault(made[f"evaluate/{model}"].key, own) == own:
                scores = found["chosen"][model], found["graded"].get(model, {})
                seeds.setdefault((own, model), []).append((name, training, *scores))
    rows = []
    for (own, model), each in seeds.items():
        names, trainings, chosen, graded = zip(*each, strict=True)
        row = " ".join(filter(None, (own, model))) if len({model for _, model in seeds}) > 1 else own
        known = [loss for training in trainings for _, loss in losses(training)["validation"][-1:]]
        rows.append(
            {
                "row": row,
                "experiment": own,
                "model": model,
                "points": names,
                "parameters": trainings[0].facts["parameters"],
                "tokens": trainings[0].facts["tokens"],
                "validation_loss": round(statistics.fmean(known), 4) if known else None,
                "scores": over_seeds(chosen),
                "graded": over_seeds(graded),
                "paper": str(paper["rows"].get(row, paper["rows"].get(model, ""))),
            }
        )
    once = {(label, a.key): (plans[name][label], a) for name, made in points.items() for label, a in made.items()}
    stages = [
        {
            "stage": a.manifest["stage"],
            "planned": vars(plan),
            "seconds": a.manifest["seconds"],
            "tokens": a.facts.get("tokens", 0),
            "disk": sum(file["bytes"] for file in a.manifest["files"].values()),
            "teachers": [*_teachers(a.facts)],
        }
        for plan, a in once.values()
    ]
    return {
        "title": title,
        "rows": rows,
        "paper": paper["says"],
        "points": list(points),
        "papers": PAPER,
        "also": also,
        "table_3": table_3(points, seed),
        "stages": stages,
    }


def _teachers(facts: Fields) -> Iterator[Fields]:
    """What Teachers.note says of each, wherever it stands."""
    for value in facts.values():
        if isinstance(value, Mapping):
            yield from [value] if "prices_as_of" in value else _teachers(value)


def table(data: Fields) -> list[str]:
    """The lines for a terminal. data: as `gather` has it."""
    benchmarks = [*data["rows"][0]["scores"]]
    rows = [["", "seeds", "validation loss", *benchmarks, data["paper"]]]
    for row in data["rows"]:
        scores = map(row["scores"].get, benchmarks)
        rows.append([row["row"], len(row["points"]), row["validation_loss"], *scores, row["paper"]])
    told = "95 % intervals, Student's over three seeds or more, the range of two that differ, else over problems"
    return [f"{data['title']}: greedy pass@1, {told}", *lines(rows)]


def write(directory: Path, template: str, data: Fields) -> str:
    """report.json, and index.html with nothing to fetch, whose path is returned. The same data give the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "report.json", data)
    write_atomic(directory / "index.html", environment().get_template(template).render(data))
    return f"report: {directory / 'index.html'}"


# --- Two of them ------------------------------------------------------------------------------------------------------


def compare(names: Sequence[str], configs: Sequence[Fields], made: Sequence[Made]) -> Json:
    """All that the page shows of two, A and B. made: of each, label -> artifact.

    -> "names", "differences" (lines, of the configs), "same" (how many artifacts are the same in both: nothing else is
    said of them), "losses": training -> "training A" and so on -> as page.losses has them, "tests": rows of
    evaluation.of_models, a group for each benchmark and model.
    """
    same = set.intersection(*({a.identity for a in found.values()} for found in made))
    curves: dict[str, Json] = {}
    tried: dict[str, dict[str, Verdicts]] = {}
    for side, found in zip("AB", made, strict=True):
        own = {label: a for label, a in found.items() if a.identity not in same}
        for training in of_stage(own, *TRAININGS):
            for kind, steps in losses(training).items():
                curves.setdefault(training.label, {})[f"{kind} {side}"] = steps
        for benchmark, models in evaluation.verdicts(of_stage(own, "evaluate")).items():
            for model, verdicts in models.items():
                tried.setdefault(f"{benchmark}, {model}", {})[side] = verdicts
    return {
        "names": [*names],
        "differences": differences(configs[0], configs[1]),
        "same": len(same),
        "losses": curves,
        "tests": evaluation.of_models(tried),
    }


def compared(data: Fields) -> list[str]:
    """For a terminal. data: as `compare` has it."""
    tests = (
        f"{t['group']}: {percent(t['first'])} and {percent(t['second'])} of {t['problems']} problems, A - B = "
        f"{signed(t['difference'])} [{signed(t['low'])}, {signed(t['high'])}], p {probability(t['p_page'])}"
        for t in data["tests"]
    )
    return [*data["differences"], "greedy pass@1, 95 % intervals, p by McNemar's test and Holm's correction", *tests]
