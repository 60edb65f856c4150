"""What a run is judged by while it goes on: loss on held-out records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from phi_jax.config import Config
from phi_jax.parallel.watch import Votes, Watch

if TYPE_CHECKING:
    from phi_jax.training.loop import Data

LOSS = "validation_loss"  # as metrics and checkpoints name them


class Validation:
    """Takes both when they are due. Every process makes the same calls."""

    def __init__(
        self,
        eval_step: jax.stages.Wrapped,
        data: Data,
        rules: Config,
        votes: Votes,
        watch: Watch,
    ) -> None:
        self._eval_step, self._data, self._rules = eval_step, data, rules
        self._votes, self._watch = votes, watch

    def is_due(self, step: int) -> bool:
        """Whether anything is taken at this step."""
        return self._loss_is_due(step)

    def take(self, step: int, state: Any) -> dict[str, Any] | None:
        """{"validation_loss": array []} where it is due.

        None where a process was asked to stop meanwhile.
        """
        found: dict[str, Any] = {}
        if self._loss_is_due(step):
            self._watch.phase(f"in the validation at step {step}")
            loss = self._loss(state)
            if loss is None:
                return None
            found[LOSS] = loss
        return found

    def _loss_is_due(self, step: int) -> bool:
        return is_due(step, self._rules.evaluate_every, self._rules.steps)

    def _loss(self, state: Any) -> jax.Array | None:
        """Mean loss over the first config.training.validation_batches held-out batches, the same ones each time."""
        losses = []
        for i in range(self._rules.validation_batches):
            losses.append(self._eval_step(state, self._data.place(self._data.held_out.batch(i)[0])))
            if i:
                losses[-2].block_until_ready()  # no more than two batches ahead of the devices
            if self._votes.cast(self._watch.asked_to_stop):
                return None
        return sum(losses[1:], losses[0]) / len(losses)


def is_due(step: int, every: int, last: int) -> bool:
    """Whether what comes every so many steps, and after the last one, comes now."""
    return step == last or step % every == 0
