"""Artifacts of every stage that a report reads, made by hand: four models, two prompt forms, perturbed and judged."""

import json
from pathlib import Path

import pyarrow as pa

from phi_jax.evaluation.comparison import robustness
from phi_jax.evaluation.execution import verdicts_of
from phi_jax.evaluation.problems import load_problems
from phi_jax.evaluation.scores import scored
from phi_jax.store import documents
from phi_jax.store.artifact import open_draft, write_json

_SCORES = pa.schema([("id", pa.string()), ("score", pa.float64())])
# Problems that each model solves, of each benchmark: the first so many of eight.
SOLVED = {
    "raw": {"nano": 0, "idioms": 1, "libraries": 0},
    "base": {"nano": 3, "idioms": 2, "libraries": 1},
    "finetuned": {"nano": 8, "idioms": 4, "libraries": 2},
    "raw+exercises": {"nano": 6, "idioms": 0, "libraries": 0},
}
KEPT_SOLVES_LESS = 2  # problems, where the newline at the prompt's end is kept
MODELS = {
    "raw": {"mixture": [["raw", 1.0]], "start": ""},
    "base": {"mixture": [["filtered", 0.25], ["grammar.textbooks", 0.75]], "start": ""},
    "finetuned": {"mixture": [["grammar.exercises", 1.0]], "start": "base"},
    "raw+exercises": {"mixture": [["grammar.exercises", 1.0]], "start": "raw"},
}
_JUDGE = {"judge": "gpt-4.1", "prompt": "judge_paper.v1", "repeats": 3, "gold_items": 40}
_PUBLISHED = {
    "value": 0.65, "low": 0.5, "high": 0.8,
    "judge": {
        **_JUDGE, "status": "published", "reasons": [], "gold_missed": 1,
    },
}  # fmt: skip
_REFUSED = {
    "value": None, "low": None, "high": None,
    "judge": {
        **_JUDGE, "status": "refused", "reasons": ["7 of 40 gold items <missed>"], "gold_missed": 7,
    },
}  # fmt: skip


def inputs_of(workdir, *, writer="grammar", full=True):
    """label -> artifact, as the report gets them. writer: who wrote the texts. full: both prompt forms, and a judge."""
    made = {}

    def make(label, facts, files=(), config=None, inputs=()):
        stage, _, name = label.partition("/")
        draft = open_draft(workdir, stage, name, config or {}, {k: made[v] for k, v in dict(inputs).items()})
        for output, write in dict(files).items():
            path = Path(draft.directory) / output
            if isinstance(write, str):
                path.write_text(write)
            else:
                write(path)
            draft.add_output(_OUTPUTS.get(output, output), output, kind="log")
        draft.add_facts(**facts)
        made[label] = draft.commit()

    texts = [f"# Licence\n\ndef f{n}(x):\n    return x + {n}\n" for n in range(12)]
    rows = [
        {"id": documents.document_id(t), "text": t, "source": "made here", "path": f"f{n}.py", "language": "python"}
        for n, t in enumerate(texts)
    ]
    scores = [{"id": row["id"], "score": n / 12 if n else None} for n, row in enumerate(rows)]
    shown = {"source": "made here", "lines": ["x = 1"]}
    sides = {"kept": 0.9, "dropped": 0.1, "above": 0.5001, "below": 0.4999}
    examples = {side: [{**shown, "path": f"{side}.py", "score": score}] for side, score in sides.items()}
    make("collect/python", {"files": 1400, "kept": 1234, "set_aside": {"tiny": 2}, "written_by": "people"})
    make("decontaminate/raw", {"problems": 8}, {"documents": lambda p: (p.mkdir(), documents.write_part(p, 0, rows))})
    problems = "".join(json.dumps(problem) + "\n" for problem in _problems())
    held_out = {"problems.jsonl": problems, "validation.jsonl": problems.splitlines()[-1] + "\n"}
    make(f"synthesize/{writer.partition(':')[0]}", {"written_by": writer, "textbooks": {"kept": 120}}, held_out)
    for name, by in (
        ("raw", "people"),
        ("filtered", "people"),
        ("grammar.textbooks", writer),
        ("grammar.exercises", writer),
    ):
        make(f"tokenize/{name}", {"written_by": by, "tokens": 1000})
    make(
        "filter/python",
        {
            "roc_auc": 0.75, "kept": 6, "cross_validated_roc_auc": {"forest": 0.812, "linear": 0.7},
            "calibration": [[0.1, 0.0, 31], [0.6, 0.25, 31], [0.9, 0.75, 30]],
        },
        {
            "scores": lambda p: (p.mkdir(), documents.write_part(p, 0, scores, _SCORES)),
            "examples.json": json.dumps(examples),
        },
    )  # fmt: skip
    for name, rules in MODELS.items():
        metrics = [{"step": n, "loss": 4.0 - n / 9, **({"validation_loss": 3.5} if n == 9 else {})} for n in range(10)]
        stage = "finetune" if rules["start"] else "pretrain"
        lines = "".join(json.dumps(m) + "\n" for m in metrics)
        make(f"{stage}/{name}", {"parameters": 91904}, {"metrics.jsonl": lines}, {"models": {name: rules}})
    asked = [e for e in ("idioms", "libraries") if full]
    rules = {"benchmark": "nano", "further_benchmarks": asked, "max_problems": 8}
    rules["prompt_form"] = "both" if full else "stripped"
    for model in MODELS:
        place = Path(workdir) / "files" / model
        files, facts = _evaluated(
            place, model, load_problems(str(_write(place / "p.jsonl", problems)))[1][:8], asked, full
        )
        source = {"problems": f"synthesize/{writer.partition(':')[0]}"}
        make(f"evaluate/{model}", facts, files, {"evaluate": rules}, source)
    return made


_OUTPUTS = {
    "problems.jsonl": "problems", "validation.jsonl": "validation", "examples.json": "examples",
    "metrics.jsonl": "metrics",
}  # fmt: skip


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _problems():
    return [
        {
            "task_id": f"nano/{n}", "prompt": f'def f{n}(x):\n    """Add {n}."""\n', "entry_point": f"f{n}",
            "canonical_solution": f"    return x + {n}\n", "test": "def check(candidate):\n    pass\n",
        }
        for n in range(9)
    ]  # fmt: skip


def _evaluated(place, model, problems, further, full):
    """(files, facts) of a model's evaluation."""
    chosen = {"nano": problems, **{name: load_problems(name)[1][:8] for name in further}}
    files, scores, base = {}, [], {}
    for name, asked in chosen.items():
        records = _records(asked, SOLVED[model][name], "stripped")
        if full:
            records += _records(asked, max(SOLVED[model][name] - KEPT_SOLVES_LESS, 0), "kept")
        scores += scored(asked, records, model=model, benchmark=name)
        lines = "".join(json.dumps(r) + "\n" for r in records)
        if name == "nano":
            files["completions.jsonl"], base = lines, verdicts_of(records, "greedy", "stripped")
        else:
            files[name] = lambda p, lines=lines: _write(p / "completions.jsonl", lines)
    if full:
        typos = {task: [False] for task in list(base)[:4]}
        rows = [{"perturbation": n, **robustness(base, v)} for n, v in (("typos", typos), ("rename_arguments", {}))]
        about = ({"rate": 0.2, "unchanged": 3}, {"rate": 1.0, "unchanged": 7})
        rows = [{**row, **facts, "not_applicable": 1} for row, facts in zip(rows, about, strict=True)]
        files["robustness.json"] = json.dumps(rows)
        scores.append(
            {"model": model, "benchmark": "nano", "prompt_form": "stripped", "decoding": "greedy",
             "metric": "judge", "problems": 8, "samples": 8, **(_REFUSED if model == "raw" else _PUBLISHED)}
        )  # fmt: skip
    files["scores.json"] = lambda p: write_json(p, scores)
    too_long = {"libraries/stripped": 3} if full and model == "finetuned" else {}
    return files, {"benchmark": "nano", "problems": 8, "prompts_too_long": too_long}


def _records(problems, solved, form):
    return [
        {
            "task_id": p.task_id, "completion": f"    return {form!r}", "prompt_form": form, "decoding": "greedy",
            "sample": 0, "passed": n < solved, "result": "passed" if n < solved else "failed: no",
        }
        for n, p in enumerate(problems)
    ]  # fmt: skip
