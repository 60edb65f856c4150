"""What is measured in a training run, and where it goes: JSON lines, TensorBoard, the progress line."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel import processes
from phi_jax.parallel.chips import chip_of
from phi_jax.progress import Progress
from phi_jax.store.artifact import Draft, write_atomic
from phi_jax.training.data import Data
from phi_jax.training.optimizer import learning_rate_schedule
from phi_jax.training.tensorboard import ScalarEvents

DATA_WAIT, VALIDATION = "data_wait_seconds", "validation_seconds"  # what is clocked apart


class Metrics(contextlib.ExitStack):
    """Appends one JSON object a step to metrics.jsonl and the same figures to TensorBoard event files; process 0 does.

    On opening, records of steps from `first_step` on are dropped: the run that is being resumed wrote them after
    its last checkpoint, and they are about to be made again.

    Beside the step's own figures a record has "learning_rate", "step_seconds", DATA_WAIT, a part of these, VALIDATION,
    which is none and is there after a validation, "tokens_per_second" over all devices, "memory_bytes" (the peak on one
    device, where the platform tells), and the share of the chips' bf16 peak: "mfu" counts attention in full,
    "mfu_causal" its causal half; neither for a chip that parallel/chips.py does not know.
    """

    def __init__(self, draft: Draft, shape: PhiConfig, data: Data, rules: Config, first_step: int) -> None:
        super().__init__()
        self._data, self._max_skipped = data, rules.max_skipped
        self._learning_rate = learning_rate_schedule(rules)
        self._step_tokens = data.batch_size * shape.max_seq_len
        self._device = data.mesh.local_devices[0]
        chip = chip_of(self._device.device_kind)
        self._mfu_per_rate = {
            name: training_flops_per_token(shape, causal=causal) / (chip.peak_flops * data.mesh.devices.size)
            for name, causal in (("mfu", False), ("mfu_causal", True))
            if chip
        }
        self._pending: dict[str, Any] = {}  # figures of the last step, which the devices may not have computed yet
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._clock = time.monotonic()
        self._file: Any = None
        if not processes.is_leader():
            return
        path = draft.directory / "metrics.jsonl"
        write_atomic(path, "".join(_records_before(path, first_step)))
        self._file = self.enter_context(path.open("a"))
        self._board = self.enter_context(ScalarEvents(draft.directory / "tensorboard", first_step))
        total, done = rules.steps * self._step_tokens, first_step * self._step_tokens
        self._bar = self.enter_context(Progress(draft.label, total, "tokens", start=done))

    @contextlib.contextmanager
    def clocked(self, what: str) -> Iterator[None]:
        """Counts the block's seconds as DATA_WAIT or VALIDATION."""
        begin = time.monotonic()
        yield
        self._spent[what] += time.monotonic() - begin

    def note(self, step: int, figures: Mapping[str, Any]) -> None:
        """Takes the figures of a step that was dispatched, and writes those of the step before."""
        self.write()
        self._pending = {"step": step, **figures}

    def add_apart(self, name: str, measure: Callable[[], jax.Array]) -> None:
        """Adds a figure to the last step's. The time it takes is no part of the step's."""
        jax.block_until_ready(self._pending)
        with self.clocked(VALIDATION):
            self._pending[name] = jax.block_until_ready(measure())

    def write(self) -> dict[str, Any]:
        """Writes and returns the figures of the last step, as numbers; {} where they are written already.

        Waits for the step. Raises UserError after config.training.max_skipped skipped steps in a row.
        """
        if not self._pending:
            return {}
        figures = {name: np.asarray(value).item() for name, value in self._pending.items()}
        self._pending = {}
        in_a_row = figures.pop("skipped_in_a_row")
        # The optimizer does not count a skipped step, so neither does its learning rate.
        taken = figures["step"] - figures["skipped"] + (in_a_row > 0)
        record = {**figures, "learning_rate": float(self._learning_rate(taken)), **self._lap()}
        if self._file is not None:
            json_able = {name: value if math.isfinite(value) else None for name, value in record.items()}
            self._file.write(json.dumps(json_able) + "\n")
            self._file.flush()
            self._board.add(figures["step"], {name: value for name, value in record.items() if name != "step"})
            self._bar.advance(self._step_tokens, f"loss {record['loss']:.3f}")
        if in_a_row:
            self._name_skipped(figures, in_a_row)
        return figures

    def _lap(self) -> dict[str, float]:
        """Figures of the time since the last call."""
        now, spent = time.monotonic(), self._spent
        seconds = now - self._clock - spent.get(VALIDATION, 0.0)
        self._clock, self._spent = now, defaultdict(float)
        rate = self._step_tokens / seconds
        figures = {"step_seconds": seconds, **spent, **{name: rate * x for name, x in self._mfu_per_rate.items()}}
        figures = {name: round(value, 4) for name, value in figures.items()}
        memory = (self._device.memory_stats() or {}).get("peak_bytes_in_use")
        return {
            **figures,
            "tokens_per_second": round(rate, 1),
            **({"memory_bytes": memory} if memory is not None else {}),
        }

    def _name_skipped(self, figures: Mapping[str, Any], in_a_row: int) -> None:
        step, records = figures["step"], ", ".join(map(str, self._data.train.record_numbers(figures["step"])))
        processes.say(
            f"step {step} skipped: loss {figures['loss']:.4g}, gradient norm {figures['grad_norm']:.4g}; "
            f"records {records}"
        )
        if in_a_row >= self._max_skipped:
            raise UserError(
                f"step {step}: {in_a_row} steps in a row were skipped, as many as config.training.max_skipped; lower "
                "the learning rate, or look at the records named above"
            )


def _records_before(path: epath.Path, step: int) -> Iterator[str]:
    """The lines of metrics.jsonl that are of earlier steps."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] < step:
                yield line + "\n"
        except ValueError:  # the last line of a killed run may be cut short
            continue
