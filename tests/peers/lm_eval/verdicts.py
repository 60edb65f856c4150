"""What the tasks beside this file take from phi_jax: problems, prompt form, stop rule, sandbox."""

from __future__ import annotations

from typing import Any

import datasets

from phi_jax.errors import UserError
from phi_jax.evaluation.benchmark_run import WALL_SECONDS
from phi_jax.evaluation.execution import PROMPT_FORMS, Sample, execute, shown_prompt
from phi_jax.evaluation.problems import load_problems
from phi_jax.evaluation.stops import body_indent, cut


def humaneval(**metadata: Any) -> dict[str, datasets.Dataset]:
    """The task's documents. metadata: of the command line; lm-eval puts the model's arguments there too.

    Raises UserError where they name no problems, or problems that are not this task's.
    """
    return _documents("humaneval", "dedent", **metadata)


def mbpp(**metadata: Any) -> dict[str, datasets.Dataset]:
    """As humaneval."""
    return _documents("mbpp", "mbpp", **metadata)


def _documents(
    benchmark: str,
    rule: str,
    *,
    problems: str | None = None,
    prompt_form: str = "stripped",
    sandbox: str = "full",
    workers: int = 2,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    if problems is None:
        raise UserError(f'phi_jax_{benchmark}: name the problems\' file: --metadata \'{{"problems": "FILE"}}\'')
    if prompt_form not in PROMPT_FORMS:
        raise UserError(f"prompt_form {prompt_form!r}: unknown; use one of {', '.join(PROMPT_FORMS)}")
    about = {"problems": problems, "prompt_form": prompt_form, "sandbox": sandbox, "workers": workers}
    rows = []
    for problem in load_problems(benchmark, problems)[1]:
        shown = shown_prompt(problem.prompt, prompt_form)
        if problem.stop != rule or (rule == "dedent" and body_indent(shown) == 0):
            raise UserError(
                f"{problems}: {problem.task_id}: its completion does not end where this task has lm-eval stop"
            )
        rows.append({"task_id": problem.task_id, "shown": shown, "benchmark": benchmark, **about})
    return {"test": datasets.Dataset.from_list(rows)}


def passed(responses: list[list[str]], documents: list[dict[str, Any]]) -> list[list[bool]]:
    """A filter: what the model wrote for each document -> whether it passes, cut and run as by `phi-jax evaluate`."""
    documents = list(documents)
    about = documents[0]
    problems = {p.task_id: p for p in load_problems(about["benchmark"], about["problems"])[1]}
    samples = [
        Sample(document["task_id"], cut(document["shown"], text, problems[document["task_id"]].stop), text)
        for document, (text,) in zip(documents, responses, strict=True)
    ]
    records = execute(
        list(problems.values()), samples,
        form=about["prompt_form"], sandbox=about["sandbox"], workers=about["workers"], wall_seconds=WALL_SECONDS,
    )  # fmt: skip
    return [[record["passed"]] for record in records]


def process_results(document: dict[str, Any], results: list[list[bool]]) -> dict[str, float]:
    """The metric of one document."""
    return {"pass@1": float(results[0][0])}
