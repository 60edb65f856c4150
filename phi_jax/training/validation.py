"""What a run is judged by while it goes on: loss on held-out records, pass@1 on problems not reported on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.evaluation.problems import HELD_OUT
from phi_jax.model.phi import Params, PhiConfig
from phi_jax.parallel import processes
from phi_jax.parallel.watch import Votes, Watch
from phi_jax.store.artifact import Artifact

if TYPE_CHECKING:
    from phi_jax.training.loop import Data

LOSS, PASS_AT_1 = "validation_loss", "validation_pass_at_1"  # as metrics and checkpoints name them


class Validation:
    """Takes both when they are due. Every process makes the same calls."""

    def __init__(
        self,
        eval_step: jax.stages.Wrapped,
        data: Data,
        rules: Config,
        votes: Votes,
        watch: Watch,
        pass_at_1: PassAt1 | None,
    ) -> None:
        self._eval_step, self._data, self._rules = eval_step, data, rules
        self._votes, self._watch, self._pass_at_1 = votes, watch, pass_at_1

    def is_due(self, step: int) -> bool:
        """Whether anything is taken at this step."""
        return self._loss_is_due(step) or self._pass_is_due(step)

    def take(self, step: int, state: Any) -> dict[str, Any] | None:
        """{"validation_loss": array [], "validation_pass_at_1": 0 to 1}, those that are due.

        None where a process was asked to stop meanwhile.
        """
        found: dict[str, Any] = {}
        if self._loss_is_due(step):
            self._watch.phase(f"in the validation at step {step}")
            loss = self._loss(state)
            if loss is None:
                return None
            found[LOSS] = loss
        if self._pass_at_1 is not None and self._pass_is_due(step):
            self._watch.phase(f"in pass@1 at step {step}")
            share = self._pass_at_1.measure(state["params"], self._watch)
            if share is None:
                return None
            found[PASS_AT_1] = share
        return found

    def _loss_is_due(self, step: int) -> bool:
        return is_due(step, self._rules.evaluate_every, self._rules.steps)

    def _pass_is_due(self, step: int) -> bool:
        return self._pass_at_1 is not None and is_due(step, self._rules.pass_every, self._rules.steps)

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


class PassAt1:
    """pass@1, greedy, on config.training.pass_problems, decoded on the training's own devices.

    Each process completes and runs its part of the problems, on the part of the mesh that is its own: between the
    processes go only the weights, as they lie, and two numbers.
    """

    def __init__(
        self, rules: Config, shape: PhiConfig, mesh: Mesh, tokenizer_directory: Path, inputs: Mapping[str, Artifact]
    ) -> None:
        """inputs: {"validation": what the grammar held out for this}, where config.training.pass_problems asks for it.

        Raises UserError where the problems cannot be read, or the mesh's tensor axis runs across processes.
        """
        from phi_jax.evaluation.completion import Plan, Prompts
        from phi_jax.evaluation.problems import load_problems
        from phi_jax.parallel.sampler_mesh import MeshDevices, local_mesh
        from phi_jax.tokens.tokenizer import Tokenizer

        source = rules.pass_problems
        file = str(inputs["validation"].path("validation")) if source == HELD_OUT else source
        _, self._problems = load_problems(file)
        self._rules, self._shape, self._mesh = rules, shape, mesh
        self._devices = MeshDevices(local_mesh(mesh))
        self._tokenizer = Tokenizer.load(tokenizer_directory)
        self._plan = Plan(max_new_tokens=rules.pass_max_new_tokens, samples_per_problem=0)
        self._prompts = Prompts(
            self._problems, self._plan, self._tokenizer, shape.max_seq_len, prompt_form=rules.pass_prompt_form
        )

    def measure(self, params: Params, watch: Watch) -> float | None:
        """The share of the problems that are solved; None where a process was asked to stop meanwhile."""
        from phi_jax.evaluation.completion import make_sampler
        from phi_jax.evaluation.execution import execute
        from phi_jax.parallel.sampler_mesh import local_params

        # The sampler, and with it a second copy of the weights, is gone when this returns; its programs stay compiled.
        here = local_params(params, self._shape, self._mesh)
        sampler = make_sampler(here, self._shape, self._tokenizer, self._plan, self._devices)
        mine = range(processes.index(), len(self._prompts.requests), processes.count())
        samples = []
        for _, sample in self._prompts.complete(lambda: sampler, mine):
            samples.append(sample)
            if watch.asked_to_stop:
                break
        passed = 0
        if not watch.asked_to_stop:
            records = execute(
                self._problems, samples,
                form=self._rules.pass_prompt_form, sandbox=self._rules.pass_sandbox, workers=1, wall_seconds=10.0,
            )  # fmt: skip
            passed = sum(record["passed"] for record in records)
        told = processes.gather([passed, not watch.asked_to_stop])
        if not all(finished for _, finished in told):
            return None
        return sum(count for count, _ in told) / len(self._problems)
