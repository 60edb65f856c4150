"""Perturbed prompts: the same problems, asked differently, to see how far a score hangs on the wording.

The phi-1 paper names the weakness: its model is "sensitive to style and to grammatical errors in the prompt". Each
perturbation is a pure function (problem, rate, seed) -> Problem, or None where the prompt offers it nothing to change.
task_id stays, so that runs are compared problem by problem (comparison.robustness), and so does `row`, which is what
the file said. Tests, reference and prompt change together, so the reference still passes.

    prose.py    typos, grammar errors and paraphrases, in the words of a docstring; its tables are wording.json
    rename.py   the function and its arguments under names that say nothing
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation.perturb.prose import grammar, paraphrase, typos
from phi_jax.evaluation.perturb.rename import rename_arguments, rename_function
from phi_jax.evaluation.problems import Problem

PERTURBATIONS: Mapping[str, Callable[[Problem, float, int], Problem | None]] = {
    "typos": typos,
    "grammar": grammar,
    "paraphrase": paraphrase,
    "rename_function": rename_function,
    "rename_arguments": rename_arguments,
}
ERRORS = ("typos", "grammar")  # whose rate is a question of how bad a prompt is; the others change all they can


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """What a perturbation made of a benchmark. The three counts add up to the benchmark's problems."""

    rate: float
    seed: int
    problems: list[Problem]  # those that changed, and no others
    unchanged: int  # it applies to them, but the draw left them as they were
    not_applicable: int  # it finds nothing to change in them at any rate

    def facts(self) -> dict[str, Any]:
        """Rate, seed and counts, for a table."""
        return {**vars(self), "problems": len(self.problems)}


def perturb(problems: Sequence[Problem], name: str, *, rate: float, seed: int = 0) -> Perturbed:
    """The problems that perturbation `name` changes, and how many it does not.

    rate: the chance, 0 to 1, that a site changes: a word (typos), a place where an error fits (grammar), a phrase that
    a rule knows (paraphrase), a name (rename_*). What changes at one rate also changes, in the same way, at every
    higher one. Raises UserError for an unknown name, and a rate that is no chance.
    """
    if name not in PERTURBATIONS:
        raise UserError(f"perturbation {name!r}: unknown; use one of {', '.join(PERTURBATIONS)}")
    if not 0 <= rate <= 1:
        raise UserError(f"perturbation {name}: a rate of {rate}; give the chance that a site changes, from 0 to 1")
    found = [PERTURBATIONS[name](problem, rate, seed) for problem in problems]
    changed = [new for new, old in zip(found, problems, strict=True) if new not in (None, old)]
    not_applicable = found.count(None)
    return Perturbed(rate, seed, changed, len(found) - len(changed) - not_applicable, not_applicable)
