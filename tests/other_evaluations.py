"""A micro run as it would be had its evaluation asked for everything that the stage can do."""

import json
import shutil
from pathlib import Path

from phi_jax.evaluation.comparison import robustness
from phi_jax.evaluation.execution import verdicts_of
from phi_jax.evaluation.problems import load_problems
from phi_jax.evaluation.scores import scored

# Problems that each model solves, of each benchmark: the first so many.
SOLVED = {
    "raw": {"nano": 0, "idioms": 1, "libraries": 0},
    "base": {"nano": 3, "idioms": 2, "libraries": 1},
    "finetuned": {"nano": 8, "idioms": 4, "libraries": 2},
    "raw+exercises": {"nano": 6, "idioms": 0, "libraries": 0},
}
KEPT_SOLVES_LESS = 2  # problems, where the newline at the prompt's end is kept
TOO_LONG = {"libraries/stripped": 3}  # of finetuned

_JUDGE = {
    "judge": "gpt-4.1", "prompt": "judge_paper.v1", "prompt_sha256": "e2" * 32, "repeats": 3, "temperature": 1.0,
    "outcomes": {"answered": 24}, "ungraded": 0, "gold_items": 40, "gold_sha256": "e3" * 32,
}  # fmt: skip
PUBLISHED = {
    "value": 0.65, "low": 0.5, "high": 0.8,
    "judge": {
        **_JUDGE, "status": "published", "reasons": [], "spread": 0.0123, "point_biserial": 0.789, "auc": 0.912,
        "gold_missed": 1,
    },
}  # fmt: skip
REFUSED = {
    "value": None, "low": None, "high": None,
    "judge": {
        **_JUDGE, "status": "refused", "reasons": ["7 of 40 gold items <missed>"], "spread": None,
        "point_biserial": None, "auc": None, "gold_missed": 7,
    },
}  # fmt: skip


def judge_entry(model, found):
    return {
        "model": model, "benchmark": "nano", "prompt_form": "stripped", "decoding": "greedy", "stop": "dedent",
        "metric": "judge", "problems": 8, "samples": 8, **found,
    }  # fmt: skip


def records(problems, solved, form):
    return [
        {
            "task_id": p.task_id, "completion": f"    return {form!r}", "prompt_form": form, "decoding": "greedy",
            "sample": 0, "whole": False, "passed": n < solved, "result": "passed" if n < solved else "failed: no",
        }
        for n, p in enumerate(problems)
    ]  # fmt: skip


def fully_evaluated(run, target):
    """A copy of a micro run whose models solve SOLVED, in both prompt forms, perturbed and before a judge."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    chosen = {name: load_problems(name)[1] for name in ("idioms", "libraries")}
    chosen = {"nano": load_problems(str(target / "synthesize/grammar/problems.jsonl"))[1], **chosen}
    chosen = {name: problems[:8] for name, problems in chosen.items()}
    for model, solved in SOLVED.items():
        directory = Path(target) / "evaluate" / model
        manifest = json.loads((directory / "manifest.json").read_text())
        scores = []
        for name, problems in chosen.items():
            place = directory if name == "nano" else directory / name
            place.mkdir(exist_ok=True)
            made = records(problems, solved[name], "stripped")
            made += records(problems, max(solved[name] - KEPT_SOLVES_LESS, 0), "kept")
            (place / "completions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in made))
            scores += scored(problems, made, model=model, benchmark=name)
            if name == "nano":
                base = verdicts_of(made, "greedy", "stripped")
        typos = {task: [False] for task in list(base)[:4]}
        about = {"seed": 0, "not_applicable": 1}
        rows = robustness(base, {"typos": typos, "rename_arguments": {}})
        rows = [
            {**rows[0], **about, "rate": 0.2, "problems": 4, "unchanged": 3},
            {**rows[1], **about, "rate": 1.0, "problems": 0, "unchanged": 7},
        ]
        (directory / "robustness.json").write_text(json.dumps(rows))
        scores.append(judge_entry(model, REFUSED if model == "raw" else PUBLISHED))
        (directory / "scores.json").write_text(json.dumps(scores))
        manifest["config"]["evaluate"].update(
            prompt_form="both", further_benchmarks=["idioms", "libraries"], perturbations=["typos", "rename_arguments"]
        )
        manifest["outputs"]["libraries"] = {"path": "libraries", "kind": "files"}
        manifest["files"]["libraries/completions.jsonl"] = {}
        manifest["facts"]["prompts_too_long"] = TOO_LONG if model == "finetuned" else {}
        (directory / "manifest.json").write_text(json.dumps(manifest))
    return target
