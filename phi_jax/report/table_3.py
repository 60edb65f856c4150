"""Table 3: what a model solves of the problems that exercises are like, and of the others, without these exercises."""

from collections.abc import Collection, Mapping

from phi_jax.evaluation.comparison import Verdicts
from phi_jax.evaluation.scores import entries
from phi_jax.report import evaluation
from phi_jax.report.page import of_stage
from phi_jax.report.tables import over_seeds
from phi_jax.store import documents
from phi_jax.store.artifact import Inputs, Json

Made = Inputs  # label -> artifact, all of a point
RATE = "match_rate"


def experiment(point: str, *fields: str) -> str:
    """A point's name without the values of some fields ("seed=1"), by which it is one of several."""
    return ",".join(part for part in point.split(",") if part.partition("=")[0] not in fields)


def table_3(points: Mapping[str, Made], seed: str) -> list[Json]:
    """Of each model that pruned exercises change: how it compares with itself in the point of match rate 0.

    A problem is similar where an exercise reaches the match rate with it, as stage `prune` found; the benchmark is the
    one that has most of these. seed: as in sweep_page.gather. -> rows of "row" (experiment and model), "match_rate",
    "which" (problems: "similar", "non-similar" or "total"), and, as over_seeds has them, "whole" and "pruned".
    None where no point has match rate 0.
    """
    rates = {n: a.manifest["config"]["prune"][RATE] for n, made in points.items() for a in of_stage(made, "prune")}
    whole = {experiment(name, RATE): points[name] for name, rate in rates.items() if not rate}
    seeds: dict[tuple[str, float, str], list[Json]] = {}
    for name, rate in rates.items():
        made, before = points[name], whole.get(experiment(name, RATE))
        if not rate or not before:
            continue
        pairs = (pair for a in of_stage(made, "prune") for pair in documents.read(a.path("matches"), ("task", RATE)))
        similar = {pair["task"] for pair in pairs if pair[RATE] >= rate}
        same = {a.identity for a in before.values()}  # evaluations of what has seen no exercises
        pruned = evaluation.verdicts([a for a in of_stage(made, "evaluate") if a.identity not in same])
        ours = evaluation.verdicts(of_stage(before, "evaluate"))
        benchmark = max(pruned, key=lambda b: len(similar.intersection(*pruned[b].values())), default="")
        for model, after in pruned.get(benchmark, {}).items():
            row, tasks = " ".join(filter(None, (experiment(name, seed, RATE), model))), after.keys()
            for which, chosen in ("similar", tasks & similar), ("non-similar", tasks - similar), ("total", tasks):
                shares = {"whole": _share(ours[benchmark][model], chosen), "pruned": _share(after, chosen)}
                seeds.setdefault((row, rate, which), []).append(shares)
    return [
        {"row": row, RATE: rate, "which": which, **over_seeds(found)} for (row, rate, which), found in seeds.items()
    ]


def _share(verdicts: Verdicts, tasks: Collection[str]) -> Json | None:
    return entries([verdicts[task] for task in tasks])[0] if tasks else None
