"""The benchmark `libraries`: whether what it asks for really is absent from what the models were finetuned on."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from phi_jax.evaluation.comparison import Verdicts
from phi_jax.evaluation.perturb.prose import parsed
from phi_jax.evaluation.problems import load_problems
from phi_jax.report.figures import TO_FILL, card, columns, interval, muted, number, percent
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact

BENCHMARK = "libraries"


def gather(verdicts: Mapping[str, Verdicts], decontaminated: Artifact) -> dict[str, Any]:
    """Of each problem: its module, how many exercises import that, and which models solve the problem.

    verdicts: model -> greedy verdicts. -> "exercises" (how many there are), "unreadable" (those of them that name a
    module but do not parse, and so are not counted), "rows" with "library", "module" (the top-level one, which is
    what is counted), "imported" and "passed" (by model, None where it was not run).
    """
    problems = load_problems(BENCHMARK)[1]
    modules = {p.task_id: p.row["library"].partition(".")[0] for p in problems}
    directory, _ = documents.document_set(decontaminated, "exercises")
    counts: Counter[str] = Counter()
    exercises = unreadable = 0
    for row in documents.read(directory, ("text",)):
        exercises += 1
        if not any(module in row["text"] for module in modules.values()):
            continue  # what imports a module names it, and to parse is slow
        tree = parsed(row["text"])
        if tree is None:
            unreadable += 1
        else:
            counts.update(set(imported(tree)))
    rows = [
        {
            "library": p.row["library"],
            "module": modules[p.task_id],
            "imported": counts[modules[p.task_id]],
            "passed": {model: found[p.task_id][0] if p.task_id in found else None for model, found in verdicts.items()},
        }
        for p in problems
    ]
    return {"exercises": exercises, "unreadable": unreadable, "rows": rows}


def imported(tree: ast.Module) -> Iterator[str]:
    """Top-level modules that a program imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def section(found: Mapping[str, Any] | None, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Problems by models, beside how often the exercises import each module.

    found: what `gather` says. scores: model -> its entry of scores.json for this benchmark.
    """
    if found is None:
        return ""
    rows = found["rows"]
    models = list(rows[0]["passed"])
    shares = (f"<b>{percent(scores[m]['value'])}</b><br>{muted(interval(scores[m]))}" for m in models)
    lines = [["pass@1", "", *shares]]
    for row in rows:
        title = escape(row["library"])
        if row["module"] != row["library"]:
            title += " " + muted(f"counted as {escape(row['module'])}")
        verdicts = [_verdict(row["passed"][model]) for model in models]
        lines.append([title, number(row["imported"]), *verdicts])
    absent = sum(not row["imported"] for row in rows)
    unreadable = ""
    if found["unreadable"]:
        unreadable = f" {number(found['unreadable'])} that name one do not parse and are not counted."
    return (
        "<h3>Libraries that the exercises do without</h3>"
        f'<p class="muted">{absent} of the {len(rows)} modules are imported by none of the '
        f"{number(found['exercises'])} exercises that the models were finetuned on.{unreadable} Each "
        "problem of this benchmark needs one of them; greedy verdicts.</p>"
        + card(columns(["module", "exercises that import it", *map(escape, models)], lines))
    )


def _verdict(passed: bool | None) -> str:
    if passed is None:
        return TO_FILL
    return '<span class="passed">passed</span>' if passed else '<span class="failed">failed</span>'
