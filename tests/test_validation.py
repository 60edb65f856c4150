"""pass@1 while training: the figure is that of the same weights evaluated afterwards; no reported benchmark chooses."""

import json

import pytest
from running import MICRO

from phi_jax import config, pipeline
from phi_jax.errors import UserError
from phi_jax.evaluation.completion import Completer, Plan
from phi_jax.evaluation.execution import execute
from phi_jax.evaluation.problems import load_problems
from phi_jax.parallel.mesh import make_mesh
from phi_jax.planning.search import with_fields
from phi_jax.store.artifact import Artifact
from phi_jax.training.validation import PassAt1
from phi_jax.weights.models import load_model


class Unasked:
    """A watch that nobody asks to stop, or only once so many completions are there."""

    def __init__(self, after=None):
        self._left = after

    @property
    def asked_to_stop(self):
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0


def rules_of(**changed):
    chosen = config.load(MICRO)
    fields = {"pass_problems": "idioms", "pass_max_new_tokens": 16, **changed}
    return with_fields(chosen, {f"training.{k}": v for k, v in fields.items()}).training


def test_a_run_notes_it_where_it_is_due(micro_run):
    lines = [json.loads(x) for x in (micro_run / "finetune/finetuned/metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines if "validation_pass_at_1" in m] == [15]
    assert 0 <= lines[-1]["validation_pass_at_1"] <= 1
    apart = [m["step"] for m in lines if "validation_seconds" in m]  # no part of those steps' tokens a second
    assert apart == [m["step"] for m in lines if "validation_loss" in m or "validation_pass_at_1" in m]
    lines = [json.loads(x) for x in (micro_run / "pretrain/raw/metrics.jsonl").read_text().splitlines()]
    assert not [m for m in lines if "validation_pass_at_1" in m], "it was asked for in finetuning alone"


def test_validation_problems_are_held_out_and_not_reported(micro_run):
    written = micro_run / "synthesize/grammar"
    held_out, validation = ([p.task_id for p in load_problems(str(written / f"{name}.jsonl"))[1]]
                            for name in ("problems", "validation"))  # fmt: skip
    assert set(validation) < set(held_out)
    assert len(validation) == len(held_out) // 5
    evaluated = (micro_run / "evaluate/raw/samples.jsonl").read_text().splitlines()
    assert not {json.loads(line)["task_id"] for line in evaluated} & set(validation)


def test_it_is_what_evaluating_the_same_weights_says(micro_run, tmp_path):
    """On problems whose answer is whatever the model says, so that the share is neither 0 nor 1."""
    trained = Artifact.read(micro_run / "finetune/finetuned")
    params, shape, _ = load_model(trained.directory)
    _, idioms = load_problems("idioms")
    made, _ = Completer(trained.directory, Plan(max_new_tokens=16, samples_per_problem=0)).complete(
        idioms, tmp_path / "parts", "once", prompt_form="stripped"
    )
    rows = [
        {
            "task_id": f"echo/{n}",
            "prompt": problem.prompt,
            "entry_point": "len",
            "test": f"def check(candidate):\n    assert {n % 3}\n",
        }
        for n, problem in enumerate(idioms)
    ]
    file = tmp_path / "echo.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, problems = load_problems(str(file))
    samples, _ = Completer(trained.directory, Plan(max_new_tokens=16, samples_per_problem=0)).complete(
        problems, tmp_path / "again", "again", prompt_form="stripped"
    )
    assert [s.raw for s in samples] == [s.raw for s in made]
    records = execute(problems, samples, form="stripped", sandbox="full", workers=2, wall_seconds=10)
    expected = sum(r["passed"] for r in records) / len(records)

    rules = rules_of(pass_problems=str(file))
    measured = PassAt1(rules, shape, make_mesh((-1, 1, 1)), micro_run / "tokenize/raw/tokenizer", {})
    assert measured.measure(params, Unasked()) == expected
    assert measured.measure(params, Unasked(after=5)) is None


def test_a_reported_benchmark_chooses_no_checkpoint():
    for problems in ("idioms", "HumanEval.jsonl.gz"):
        chosen = with_fields(
            config.load(MICRO),
            {"training.pass_problems": problems, "training.pass_every": 8, "evaluate.benchmark": "HumanEval.jsonl.gz"},
        )
        with pytest.raises(UserError, match="a benchmark that is reported must choose no checkpoint"):
            pipeline.stages(chosen)
