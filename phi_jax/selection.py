"""Stage `select`: which save of a finished training is handed on (paper, section 2.3: the best of six)."""

import json
from collections.abc import Mapping

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import HELD_OUT, load_problems
from phi_jax.progress import note
from phi_jax.store.artifact import Draft, Inputs, write_json
from phi_jax.training.rules import PASS_AT_1, VALIDATION_LOSS, candidates, rules_of
from phi_jax.weights.checkpoints import Checkpoints


def check(config: Config, name: str) -> None:
    """Raises UserError for problems that cannot be read, where a file holds them."""
    if config.select.problems != HELD_OUT:
        load_problems(config.select.problems)


def select(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Chooses among the saves of inputs["training"] (see rules.candidates) by config.models.<draft.name>.select:
    "validation_loss", which was saved with them, or greedy "pass_at_1" on config.select.problems. The earliest of
    equals is chosen, and never one whose value is not finite.

    inputs: "problems" too, where config.select.problems names what the grammar holds out. Output: "choice", a JSON file
    {"step", "by", "identity" of the save's parameters, "candidates": [{"step", "value", null where not finite}]}.
    Raises UserError where no value is finite.
    """
    by = getattr(config.models, draft.name).select
    training, steps = inputs["training"], candidates(rules_of(config, draft.name), by)
    with Checkpoints(training.path("checkpoint"), read_only=True) as checkpoints:
        if by == VALIDATION_LOSS:
            values = {step: checkpoints.metrics(step).get(VALIDATION_LOSS) for step in steps}
        else:
            values = _pass_at_1(config, inputs, draft, steps)
        step = _best(values, by, training.label)
        identity = checkpoints.identity(step)
    choice = {
        "step": step,
        "by": by,
        "identity": identity,
        "candidates": [{"step": candidate, "value": value} for candidate, value in values.items()],
    }
    write_json(draft.directory / "choice.json", choice)
    draft.add_output("choice", "choice.json")
    draft.add_facts(**choice)
    note(f"{draft.label}: step {step} of {', '.join(map(str, values))} is the best by {by}", detail=True)


def _pass_at_1(config: Config, inputs: Inputs, draft: Draft, steps: list[int]) -> dict[int, float | None]:
    """Step -> share of the validation problems that the save solves. A step that a killed run measured is kept."""
    from phi_jax.evaluation.benchmark_run import greedy_pass_at_1
    from phi_jax.weights.models import load_model

    rules, training = config.select, inputs["training"]
    source = str(inputs["problems"].path("validation")) if rules.problems == HELD_OUT else rules.problems
    _, problems = load_problems(source)
    values: dict[int, float | None] = {}
    for step in steps:
        measured = draft.directory / "measured" / f"{step}.json"
        if not measured.exists():
            share = greedy_pass_at_1(load_model(training.directory, step=step), problems, rules)
            measured.parent.mkdir(exist_ok=True)
            write_json(measured, share)
        values[step] = json.loads(measured.read_text())
    return values


def _best(values: Mapping[int, float | None], by: str, label: str) -> int:
    """The step of the best finite value; the earliest of equals."""
    finite = {step: value for step, value in sorted(values.items()) if value is not None}
    if not finite:
        raise UserError(
            f"{label}: none of its saves has a finite {by} to be chosen by; make config.training.checkpoint_every a "
            "multiple of evaluate_every, or lower the learning rate where the loss is not finite, and train again"
        )
    return (max if by == PASS_AT_1 else min)(finite, key=finite.__getitem__)
