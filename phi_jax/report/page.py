"""Stage `report`: one self-contained page, and report.json, which holds every number that the page shows."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from phi_jax.artifact import Artifact, Draft, write_atomic, write_json
from phi_jax.config import Config
from phi_jax.report.chart import line_chart


def report(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `report`: inputs {"collect", "tokenize", "pretrain", "export", "evaluate"} -> report.json, index.html.

    report.json is a function of the inputs; the page also shows how long the stages took, so it is no part of
    the identity.
    """
    data = gather(config, inputs)
    write_json(draft.directory / "report.json", data)
    seconds = {a.label: a.manifest["seconds"] for a in inputs.values()}
    versions = inputs["pretrain"].manifest["versions"]
    write_atomic(draft.directory / "index.html", page(data, seconds, versions))
    draft.add_output("report", "report.json")
    draft.add_output("page", "index.html", kind="log")


def gather(config: Config, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """All that the page shows but times: facts of the stages, losses, scores, sample completions, configs."""
    metrics = [json.loads(line) for line in inputs["pretrain"].path("metrics").read_text().splitlines()]
    records = inputs["evaluate"].path("completions.jsonl").read_text().splitlines()
    return {
        "title": config.report.title,
        "stages": {a.label: a.facts for a in inputs.values()},
        "identities": {a.label: a.identity for a in inputs.values()},
        "loss": [[m["step"], m["loss"]] for m in metrics],
        "validation_loss": [[m["step"], m["validation_loss"]] for m in metrics if "validation_loss" in m],
        "scores": json.loads(inputs["evaluate"].path("scores.json").read_text()),
        "samples": _choose([json.loads(line) for line in records], config.report.samples),
        "prompts": _prompts(inputs["evaluate"]),
        "config": {a.label: a.manifest["config"] for a in inputs.values()},
    }


def _prompts(evaluated: Artifact) -> dict[str, str]:
    from phi_jax.evaluation.problems import load_problems

    _, problems = load_problems(evaluated.manifest["config"]["evaluate"]["benchmark"])
    return {p.task_id: p.prompt for p in problems}


def _choose(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Greedy completions, passed ones first, so that a page of few samples shows both kinds where both exist."""
    greedy = [r for r in records if r["decoding"] == "greedy"]
    passed = [r for r in greedy if r["passed"]][: -(-count // 2)]
    failed = [r for r in greedy if not r["passed"]][: count - len(passed)]
    return [{k: r[k] for k in ("task_id", "completion", "passed", "result")} for r in [*passed, *failed]]


# --- The page ------------------------------------------------------------------------------------------------


def page(data: dict[str, Any], seconds: Mapping[str, float], versions: Mapping[str, str]) -> str:
    """The whole page as HTML, with nothing to fetch."""
    css = (importlib.resources.files("phi_jax.report") / "page.css").read_text()
    body = [
        f"<h1>{escape(data['title'])}</h1>",
        '<p class="muted">A phi_jax run: real Python files in, a tested model out.</p>',
        _headline(data),
        "<h2>Loss</h2>",
        _loss(data),
        "<h2>Scores</h2>",
        _scores(data["scores"]),
        "<h2>What each stage kept and dropped</h2>",
        '<div class="cards">' + "".join(_stage(k, v, seconds[k]) for k, v in data["stages"].items()) + "</div>",
        "<h2>Completions and their verdicts</h2>",
        '<p class="muted">Greedy completions; the prompt in grey.</p>',
        '<div class="cards wide">' + "".join(_sample(s, data["prompts"]) for s in data["samples"]) + "</div>",
        "<h2>To make it again</h2>",
        _table([(k, v[:16]) for k, v in data["identities"].items()], ("artifact", "identity")),
        _details("Config", json.dumps(data["config"], indent=2)),
        _details("Versions", "\n".join(f"{k} {v}" for k, v in versions.items())),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(data['title'])}: phi_jax report</title><style>{css}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _headline(data: dict[str, Any]) -> str:
    facts: dict[str, Any] = {}
    for stage in data["stages"].values():
        facts.update(stage)
    score = data["scores"][0]
    figures = [
        (number(facts["kept"]), "documents kept"),
        (number(facts["parameters"]), "parameters"),
        (number(facts["steps"]), "steps"),
        (f"{data['loss'][-1][1]:.3f}", "last training loss (nats)"),
        (
            f"{data['validation_loss'][-1][1]:.3f}" if data["validation_loss"] else "not taken",
            "validation loss",
        ),
        (percent(score["value"]), f"{score['benchmark']} {score['metric']}, {score['decoding']}"),
    ]
    return (
        '<div class="figures">'
        + "".join(f"<div><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in figures)
        + "</div>"
    )


def _loss(data: dict[str, Any]) -> str:
    series = [("training", data["loss"])]
    if data["validation_loss"]:
        series.append(("validation", data["validation_loss"]))
    return line_chart(series, x_label="step", y_label="loss (nats)")


def _scores(scores: Sequence[dict[str, Any]]) -> str:
    rows = []
    for s in scores:
        low, high, value = 100 * s["low"], 100 * s["high"], 100 * s["value"]
        bar = (
            f'<div class="range"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
            f'<b style="left:{min(value, 99):.1f}%"></b></div>'
        )
        rows.append(
            f"<tr><td>{escape(s['benchmark'])}</td><td>{escape(s['decoding'])}</td><td>{escape(s['prompt_form'])}</td>"
            f"<td>{percent(s['value'])}</td><td>{percent(s['low'])} to {percent(s['high'])}</td>"
            f"<td>{bar}</td><td>{s['problems']} / {s['samples']}</td></tr>"
        )
    head = "".join(
        f"<th>{h}</th>"
        for h in (
            "benchmark",
            "decoding",
            "prompt's newline",
            "pass@1",
            "95 % interval",
            "",
            "problems / samples",
        )
    )
    return f'<div class="card scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _stage(label: str, facts: dict[str, Any], seconds: float) -> str:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        label_ = name.replace("_", " ")
        if isinstance(value, dict):
            shown = list(value.items())[:8]
            rows += [(f"{label_}: {k}", _show(v)) for k, v in shown]
            if len(value) > len(shown):
                rows.append((f"{label_}: {len(value) - len(shown)} more", "in report.json"))
        else:
            rows.append((label_, _show(value)))
    heading = f'{escape(label)} <span class="muted">{seconds:.1f} s</span>'
    return f'<div class="card"><h3>{heading}</h3>{_table(rows)}</div>'


def _sample(sample: dict[str, Any], prompts: Mapping[str, str]) -> str:
    kind = "passed" if sample["passed"] else "failed"
    return (
        f'<div class="card"><h3>{escape(sample["task_id"])}</h3>'
        f'<pre><span class="prompt">{escape(prompts[sample["task_id"]].rstrip())}</span>'
        f"{escape(sample['completion'].rstrip())}</pre>"
        f'<p class="verdict {kind}">{escape(sample["result"])}</p></div>'
    )


def _table(rows: Sequence[tuple[str, str]], head: tuple[str, str] | None = None) -> str:
    top = f"<tr><th>{escape(head[0])}</th><th>{escape(head[1])}</th></tr>" if head else ""
    lines = "".join(f'<tr><td>{escape(a)}</td><td class="number">{escape(b)}</td></tr>' for a, b in rows)
    return f"<table>{top}{lines}</table>"


def _details(title: str, text: str) -> str:
    return f'<details class="card"><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>'


def _show(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def number(value: float) -> str:
    """1234567 -> "1,234,567"; a float keeps its digits."""
    return f"{value:,}"


def percent(share: float) -> str:
    """0.1234 -> "12.3 %"."""
    return f"{100 * share:.1f} %"
