"""The way of every evaluation: complete the problems, run the completions, write what came of them, score it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phi_jax.evaluation.completion import TOO_LONG, Backend, Plan, complete, requests_of
from phi_jax.evaluation.execution import Records, execute, forms_of, write_results
from phi_jax.evaluation.problems import Problem
from phi_jax.evaluation.scores import Scores, scored
from phi_jax.progress import note

if TYPE_CHECKING:
    from phi_jax.config import Config
    from phi_jax.weights.models import Loaded

WALL_SECONDS = 10.0  # of one execution
PARTS = "parts"  # directory of completions, which a killed evaluation goes on from


@dataclasses.dataclass
class BenchmarkRun:
    """A model's evaluation. too_long: "benchmark/form" -> prompts that did not fit the model's context, where any."""

    backend: Backend
    plan: Plan
    directory: Path  # of the results
    model: str  # its name beside scores
    label: str  # of progress
    sandbox: str  # "full" or "none"
    workers: int  # executions at once
    wall_seconds: float = WALL_SECONDS
    too_long: dict[str, int] = dataclasses.field(default_factory=dict)

    def records(self, problems: Sequence[Problem], place: str, form: str) -> Records:
        """Completes the problems in one prompt form and runs the completions. place: of its parts."""
        requests = requests_of(problems, self.plan, form)
        samples = complete(requests, self.backend, self.directory / PARTS / place, f"{self.label} {place}")
        if count := len({s.task_id for s in samples if s.stop_reason == TOO_LONG}):
            self.too_long[place] = count
            note(
                f"{self.label} {place}: warning: {count} of {len(problems)} prompts do not fit the model's context; "
                "they count as failed"
            )
        return execute(
            problems, samples,
            form=form, sandbox=self.sandbox, workers=self.workers, wall_seconds=self.wall_seconds,
        )  # fmt: skip

    def benchmark(self, name: str, problems: Sequence[Problem], place: str = "") -> tuple[Records, Scores]:
        """A whole benchmark in every prompt form of the plan; `place` in the directory gets its results."""
        records: Records = []
        for form in forms_of(self.plan.prompt_form):
            records += self.records(problems, f"{name}/{form}", form)
        (self.directory / place).mkdir(exist_ok=True)
        write_results(self.directory / place, records)
        return records, scored(problems, records, model=self.model, benchmark=name)


def greedy_pass_at_1(loaded: Loaded, problems: Sequence[Problem], rules: Config) -> float:
    """The share of the problems that a model in memory solves by its greedy completions; nothing is kept on disk.

    rules: config.select. Raises UserError where no prompt has room in the model's context, and where the sandbox does
    not work.
    """
    from phi_jax.evaluation.backends.jax_sampler import JaxBackend

    plan = Plan(rules.prompt_form, rules.max_new_tokens, samples_per_problem=0)
    with tempfile.TemporaryDirectory() as scratch:
        backend = JaxBackend(loaded, plan, rules.slots)
        run = BenchmarkRun(backend, plan, Path(scratch), "", "select", rules.sandbox, rules.sandbox_workers)
        records = run.records(problems, "validation", rules.prompt_form)
    return sum(record["passed"] for record in records) / len(records)
