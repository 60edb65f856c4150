"""Stage `report`: one self-contained page, and report.json, which holds every number that the page shows."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from phi_jax.config import Config
from phi_jax.corpus.rubric import from_first_code
from phi_jax.evaluation.evaluate import GREEDY, benchmarks
from phi_jax.evaluation.execution import forms_of
from phi_jax.report import evaluation, sections, writing
from phi_jax.report.figures import table
from phi_jax.report.paper import FIGURE_2_1
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_atomic, write_json

_READING_LINES = 30


def report(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `report`: inputs, every artifact by its label -> report.json, index.html.

    report.json is a function of the inputs; the page also shows how long the stages took, so it is no part of
    the identity.
    """
    data = gather(config, inputs)
    write_json(draft.directory / "report.json", data)
    seconds = {a.label: a.manifest["seconds"] for a in inputs.values()}
    versions = next(a for a in inputs.values() if a.manifest["stage"] == "pretrain").manifest["versions"]
    write_atomic(draft.directory / "index.html", page(data, seconds, versions))
    draft.add_output("report", "report.json")
    draft.add_output("page", "index.html", kind="log")


def gather(config: Config, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """All that the page shows but times: facts of the stages, losses, scores, completions, files, configs."""
    evaluated = [a for a in inputs.values() if a.manifest["stage"] == "evaluate"]
    trained = [a for a in inputs.values() if a.manifest["stage"] in ("pretrain", "finetune")]
    kept, scores = inputs["filter/python"], inputs["filter/python"].path("scores")
    return {
        "title": config.report.title,
        "stages": {label: a.facts for label, a in inputs.items()},
        "identities": {label: a.identity for label, a in inputs.items()},
        "losses": {a.label: _losses(a) for a in trained},
        "scores": [score for a in evaluated for score in json.loads(a.path("scores.json").read_text())],
        "evaluation": evaluation.gather(evaluated),
        "figure_2_1": FIGURE_2_1,
        "samples": _samples(evaluated, inputs, config.report.samples),
        "files": json.loads(kept.path("examples").read_text()),
        "reading": _reading(inputs["decontaminate/nano"], scores, config.report.files_to_grade),
        "config": {label: a.manifest["config"] for label, a in inputs.items()},
    }


def _losses(trained: Artifact) -> dict[str, list[list[float]]]:
    metrics = [json.loads(line) for line in trained.path("metrics").read_text().splitlines()]
    return {
        "training": [[m["step"], m["loss"]] for m in metrics],
        "validation": [[m["step"], m["validation_loss"]] for m in metrics if "validation_loss" in m],
        "pass_at_1": [[m["step"], m["validation_pass_at_1"]] for m in metrics if "validation_pass_at_1" in m],
    }


def _samples(evaluated: Sequence[Artifact], inputs: Mapping[str, Artifact], count: int) -> list[dict[str, Any]]:
    """The same problems as each model completed them: those that the models disagree most about first.

    Of the main benchmark, greedy, in the first prompt form.
    """
    by_task: dict[str, dict[str, dict[str, Any]]] = {}
    for artifact in evaluated:
        form = forms_of(artifact.manifest["config"]["evaluate"]["prompt_form"])[0]
        for line in artifact.path("completions.jsonl").read_text().splitlines():
            record = json.loads(line)
            if (record["decoding"], record["prompt_form"]) == (GREEDY, form):
                shown = {k: record[k] for k in ("completion", "passed", "result")}
                by_task.setdefault(record["task_id"], {})[artifact.manifest["name"]] = shown

    def telling(task: str) -> tuple[int, str]:
        passed = sum(c["passed"] for c in by_task[task].values())
        return abs(2 * passed - len(by_task[task])), task

    chosen = sorted(by_task, key=telling)[: count // 2]
    chosen += [task for task in sorted(by_task) if task not in chosen][: count - len(chosen)]
    prompts = _prompts(evaluated[0], inputs)
    return [{"task_id": task, "prompt": prompts[task], "completions": by_task[task]} for task in chosen]


def _prompts(evaluated: Artifact, inputs: Mapping[str, Artifact]) -> dict[str, str]:
    source = evaluated.manifest["inputs"].get("problems")
    held_out = None if source is None else inputs[source["artifact"]]
    (_, problems), *_further = benchmarks(Config(evaluated.manifest["config"]).evaluate, held_out)
    return {p.task_id: p.prompt for p in problems}


def _reading(decontaminated: Artifact, scores: Any, count: int) -> list[dict[str, Any]]:
    """Files for a reader to grade, a sample by hash, without their scores: id, where from, how they begin."""
    import pyarrow.parquet as pq

    with scores.open("rb") as file:
        table = pq.read_table(file, columns=["id", "score"]).to_pydict()
    ids = [i for i, score in zip(table["id"], table["score"], strict=True) if score is not None]
    chosen = sorted(ids, key=lambda i: hashlib.sha256(f"reading {i}".encode()).digest())[:count]
    wanted = set(chosen)
    directory, _ = documents.document_set(decontaminated, "raw")
    rows = {r["id"]: r for r in documents.read(directory, ("id", "source", "path", "text")) if r["id"] in wanted}
    return [
        {
            "id": i,
            "source": rows[i]["source"],
            "path": rows[i]["path"],
            "lines": rows[i]["text"].count("\n") + 1,
            "begins": "\n".join(from_first_code(rows[i]["text"]).splitlines()[:_READING_LINES]),
        }
        for i in chosen
    ]


def page(data: dict[str, Any], seconds: Mapping[str, float], versions: Mapping[str, str]) -> str:
    """The whole page as HTML, with nothing to fetch."""
    css = (importlib.resources.files("phi_jax.report") / "page.css").read_text()
    facts = data["stages"]["filter/python"]
    body = [
        f"<h1>{escape(data['title'])}</h1>",
        '<p class="muted">A phi_jax run: the recipe of "Textbooks Are All You Need" in small.</p>',
        sections.headline(data),
        "<h2>What came out, and what the paper reports</h2>",
        sections.bars(data),
        "<h2>Loss</h2>",
        sections.losses(data["losses"]),
        "<h2>Scores</h2>",
        evaluation.section(data),
        "<h2>What the teacher wrote</h2>",
        writing.written(writing.synthesized(data["stages"])),
        writing.origins(data["stages"]),
        "<h2>The filter</h2>",
        '<div class="cards wide">',
        writing.graded(data["stages"]["annotate/python"]),
        sections.filter_quality(facts),
        sections.filter_histogram(facts),
        "</div>",
        "<h2>Files that the filter kept and dropped</h2>",
        '<p class="muted">Typical ones: near the 0.9 and the 0.1 quantile of all scores.</p>',
        sections.files(data["files"]),
        "<h2>The same problems, completed by each model</h2>",
        '<p class="muted">Greedy completions; half are problems that the models disagree most about.</p>',
        '<div class="cards wide">' + "".join(map(sections.sample, data["samples"])) + "</div>",
        "<h2>What each stage kept and dropped</h2>",
        '<div class="cards">' + "".join(sections.stage(k, v, seconds[k]) for k, v in data["stages"].items()) + "</div>",
        "<h2>To grade the filter yourself</h2>",
        '<p class="muted">A sample of files by hash, their scores not shown: is this file educational for somebody who '
        "learns basic coding concepts?</p>",
        sections.reading(data["reading"]),
        "<h2>To make it again</h2>",
        table([(k, v[:16]) for k, v in data["identities"].items()], ("artifact", "identity")),
        sections.details("Config", json.dumps(data["config"], indent=2)),
        sections.details("Versions", "\n".join(f"{k} {v}" for k, v in versions.items())),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(data['title'])}: phi_jax report</title><style>{css}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
