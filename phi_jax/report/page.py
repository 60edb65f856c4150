"""Stage `report`: one self-contained page, and report.json, which holds every number that the page shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phi_jax.config import Config
from phi_jax.evaluation.evaluate import GREEDY, benchmarks
from phi_jax.report import charts, evaluation
from phi_jax.report.tables import PAPER
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, Fields, Inputs, Json, write_atomic, write_json
from phi_jax.store.python_text import from_first_code

if TYPE_CHECKING:
    import jinja2

_READING_CHARACTERS = 1500
TRAININGS = ("pretrain", "finetune")


def report(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `report`: inputs, every artifact by its label -> report.json, index.html.

    report.json is a function of the inputs; the page also shows how long the stages took, so it is no part of
    the identity.
    """
    data = gather(config, inputs)
    write_json(draft.directory / "report.json", data)
    seconds = {label: a.manifest["seconds"] for label, a in inputs.items()}
    versions = of_stage(inputs, *TRAININGS)[0].manifest["versions"]
    write_atomic(draft.directory / "index.html", page(data, seconds, versions))
    draft.add_output("report", "report.json")
    draft.add_output("page", "index.html", kind="log")


# --- The numbers ----------------------------------------------------------------------------------------------------


def gather(config: Config, inputs: Inputs) -> Json:
    """All that the page shows but times: facts of the stages, losses, scores, completions, files, configs."""
    evaluated = of_stage(inputs, "evaluate")
    filters = of_stage(inputs, "filter")
    return {
        "title": config.report.title,
        "trained": {a.manifest["name"]: _trained(a, inputs) for a in of_stage(inputs, *TRAININGS)},
        "evaluation": evaluation.gather(evaluated),
        "figure_2_1": PAPER["figure_2_1"],
        "samples": _samples(evaluated, inputs, config.report.samples),
        "files": json.loads(filters[0].path("examples").read_text()) if filters else {},
        "reading": _reading(inputs["decontaminate/raw"], filters[0], config.report.files_to_grade) if filters else [],
        "stages": {label: a.facts for label, a in inputs.items()},
        "identities": {label: a.identity for label, a in inputs.items()},
        "config": {label: a.manifest["config"] for label, a in inputs.items()},
    }


def of_stage(inputs: Inputs, *stages: str) -> list[Artifact]:
    """The artifacts of some stages. inputs: label -> artifact."""
    return [a for a in inputs.values() if a.manifest["stage"] in stages]


def _trained(trained: Artifact, inputs: Inputs) -> Json:
    """What a model learned from, as its config says, who wrote that, and its losses by step."""
    name = trained.manifest["name"]
    rules = trained.manifest["config"]["models"][name]
    return {
        "label": trained.label,
        "start": rules["start"],
        "sets": [
            {"set": chosen, "share": share, "written_by": inputs[f"tokenize/{chosen}"].facts["written_by"]}
            for chosen, share in rules["mixture"]
        ],
        "losses": losses(trained),
    }


def losses(trained: Artifact) -> dict[str, list[list[float]]]:
    """ "training" and "validation": [step, loss] of each step that has one; nats."""
    metrics = [json.loads(line) for line in trained.path("metrics").read_text().splitlines()]
    return {
        kind: [[m["step"], m[field]] for m in metrics if m.get(field) is not None]
        for kind, field in (("training", "loss"), ("validation", "validation_loss"))
    }


def _samples(evaluated: Sequence[Artifact], inputs: Inputs, count: int) -> list[Json]:
    """The same problems as each model completed them, those that the models disagree most about.

    Of the main benchmark, greedy, in the first prompt form.
    """
    rules = Config(evaluated[0].manifest["config"]).evaluate
    source = evaluated[0].manifest["inputs"].get("problems")
    problems = benchmarks(rules, None if source is None else inputs[source["artifact"]])[0][1]
    found: dict[str, dict[str, Json]] = {p.task_id: {} for p in problems}
    for artifact in evaluated:
        for record in map(json.loads, artifact.path("completions.jsonl").read_text().splitlines()):
            if record["decoding"] == GREEDY and artifact.manifest["name"] not in found[record["task_id"]]:
                shown = {name: record[name] for name in ("completion", "passed", "result")}
                found[record["task_id"]][artifact.manifest["name"]] = shown

    def agreement(task: str) -> tuple[int, str]:
        return abs(2 * sum(c["passed"] for c in found[task].values()) - len(found[task])), task

    prompts = {p.task_id: p.prompt for p in problems}
    return [
        {"task_id": task, "prompt": prompts[task], "completions": found[task]}
        for task in sorted(found, key=agreement)[:count]
    ]


def _reading(decontaminated: Artifact, filtered: Artifact, count: int) -> list[Json]:
    """Files for a reader to grade, a sample by hash, without their scores: id, where from, how they begin."""
    scores = documents.read(filtered.path("scores"), ("id", "score"))
    scored = [row["id"] for row in scores if row["score"] is not None]
    chosen = set(sorted(scored, key=lambda i: documents.uniform(i, "reading"))[:count])
    rows = documents.read(decontaminated.path("documents"), ("id", "source", "path", "text"))
    return [{**row, "text": from_first_code(row["text"])[:_READING_CHARACTERS]} for row in rows if row["id"] in chosen]


# --- The page -------------------------------------------------------------------------------------------------------


def page(data: Fields, seconds: Mapping[str, float], versions: Mapping[str, str]) -> str:
    """The whole page as HTML, with nothing to fetch. The same arguments give the same bytes."""
    found = data["evaluation"]
    main = {model: scores[found["main"]] for model, scores in found["chosen"].items()}
    template = environment().get_template("page.html.j2")
    return template.render(
        data,
        main=main,
        told_apart=evaluation.told_apart(found),
        significant=evaluation.SIGNIFICANT,
        seconds=seconds,
        versions=versions,
    )


def environment() -> jinja2.Environment:
    """Of this folder's templates, with the filters below and the charts."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("phi_jax.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals |= {"bars": charts.bars, "lines": charts.lines}
    made.filters |= {"number": number, "percent": percent, "signed": signed, "probability": probability}
    return made


def number(value: Any) -> str:
    """1234567 -> "1,234,567"; words as they are; "none" where there is nothing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "none" if value in (None, [], {}, "") else str(value)
    return f"{value:,}"


def percent(share: float) -> str:
    """0.1234 -> "12.3 %"."""
    return f"{100 * share:.1f} %"


def signed(difference: float) -> str:
    """A difference of two shares in percentage points: -0.125 -> "−12.5"."""
    points = f"{100 * difference:+.1f}"
    return "0.0" if points in ("+0.0", "-0.0") else points.replace("-", "−")


def probability(p: float) -> str:
    """0.04321 -> "0.043"; "< 0.001" below that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
