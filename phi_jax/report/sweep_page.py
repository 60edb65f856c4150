"""The page of a sweep: the models of every point in one table, over seeds if there are several, beside the paper's."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax.report import charts, evaluation
from phi_jax.report.page import environment
from phi_jax.store.artifact import Artifact, write_atomic, write_json

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """What came out of a point. overrides: dotted path -> value. trained: model -> its training."""

    overrides: Mapping[str, Any]
    trained: Mapping[str, Artifact]
    evaluated: Sequence[Artifact]


def gather(title: str, points: Mapping[str, Point], seed: str, paper: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page shows. seed: the field whose values are repetitions of one experiment.

    paper: {"says": what its numbers are, "rows": row -> number}. -> "rows": a row for each model of each experiment,
    with "row" (its name), "experiment", "model", "seeds", "tokens", "validation_loss" (mean, nats), and "scores":
    benchmark -> {"values" (of each seed), "value" (their mean), "low", "high", "interval"}. The 95 % interval is
    Student's over seeds where there are three or more; their range where there are two; else Wilson's over problems.
    """
    rows: dict[tuple[str, str], Row] = {}
    for name, point in points.items():
        mark = f"{seed}={point.overrides[seed]}" if seed in point.overrides else ""
        experiment = ",".join(part for part in name.split(",") if part != mark)
        found = evaluation.gather(point.evaluated)
        for model, scores in found["chosen"].items():
            row = rows.setdefault((experiment, model), {"points": [], "losses": [], "found": []})
            row |= {"experiment": experiment, "model": model, "tokens": point.trained[model].facts["tokens"]}
            row["points"].append(name)
            row["losses"].append(_last_loss(point.trained[model]))
            row["found"].append(scores)
    models = {model for _, model in rows}
    for row in rows.values():
        # One model in each experiment: the experiment alone tells the rows apart, and the paper's.
        names = (row["experiment"], row["model"])
        row["row"] = " ".join(filter(None, names)) if len(models) > 1 else names[0]
        row["seeds"] = len(row["points"])
        losses = [loss for loss in row.pop("losses") if loss is not None]
        row["validation_loss"] = round(statistics.fmean(losses), 4) if losses else None
        scores = row.pop("found")
        row["scores"] = {benchmark: _over_seeds([s[benchmark] for s in scores]) for benchmark in scores[0]}
        row["paper"] = paper["rows"].get(row["row"], paper["rows"].get(row["model"]))
    return {"title": title, "rows": list(rows.values()), "paper": paper["says"], "points": list(points)}


def _last_loss(training: Artifact) -> float | None:
    metrics = map(json.loads, training.path("metrics").read_text().splitlines())
    losses = [m["validation_loss"] for m in metrics if m.get("validation_loss") is not None]
    return losses[-1] if losses else None


def _over_seeds(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [score["value"] for score in scores]
    mean = statistics.fmean(values)
    low, high, interval = min(values), max(values), "range of two seeds"
    if len(values) == 1:
        low, high, interval = scores[0]["low"], scores[0]["high"], "Wilson, over problems"
    elif len(values) > 2:
        from scipy import stats

        half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        low, high, interval = max(0.0, mean - half), min(1.0, mean + half), "Student's t, over seeds"
    return {"values": values, "value": mean, "low": low, "high": high, "interval": interval}


def table(data: Mapping[str, Any]) -> list[str]:
    """The lines for a terminal. data: as `gather` has it."""
    benchmarks = list(data["rows"][0]["scores"])
    paper = [f"paper: {data['paper']}"] if data["paper"] else []
    cells = [["", "seeds", "validation loss", *benchmarks, *paper]]
    for row in data["rows"]:
        loss = "" if row["validation_loss"] is None else f"{row['validation_loss']:.3f}"
        shown = [
            f"{100 * s['value']:5.1f} % [{100 * s['low']:4.1f}, {100 * s['high']:5.1f}]" for s in row["scores"].values()
        ]
        theirs = ["" if row["paper"] is None else str(row["paper"])] if paper else []
        cells.append([row["row"], str(row["seeds"]), loss, *shown, *theirs])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    kinds = {score["interval"] for row in data["rows"] for score in row["scores"].values()}
    return [
        f"{data['title']}: greedy pass@1, 95 % intervals ({'; '.join(sorted(kinds))})",
        *("   ".join(map(str.ljust, row, widths)).rstrip() for row in cells),
    ]


def write(directory: Path, data: Mapping[str, Any]) -> None:
    """report.json, and index.html with nothing to fetch. The same data give the same bytes."""
    directory.mkdir(exist_ok=True)
    write_json(directory / "report.json", data)
    benchmark = next(iter(data["rows"][0]["scores"]))
    bars = charts.seeds(
        {row["row"]: row["scores"][benchmark] for row in data["rows"]},
        f"{benchmark}: pass@1 (%), mean and 95 % interval",
    )
    page = environment().get_template("sweep.html.j2").render(data, bars=bars)
    write_atomic(directory / "index.html", page)
