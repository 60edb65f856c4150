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
from etils import epath
from jax.sharding import Mesh

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

DATA_WAIT, VALIDATION = "data_wait_seconds", "validation_seconds"  # what a Meter clocks apart


class Meter:
    """Clocks the steps of this process."""

    def __init__(self, shape: PhiConfig, mesh: Mesh, batch_size: int) -> None:
        self.step_tokens = batch_size * shape.max_seq_len
        chip = chip_of(mesh.devices.flat[0].device_kind)
        kinds = (("mfu", False), ("mfu_causal", True)) if chip else ()
        self._flops = {name: training_flops_per_token(shape, causal=causal) for name, causal in kinds}
        self._peak_flops = chip.peak_flops * mesh.devices.size if chip else 0.0
        self._device = mesh.local_devices[0]
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._clock = time.monotonic()

    @contextlib.contextmanager
    def clocked(self, what: str) -> Iterator[None]:
        """Counts the block's seconds as DATA_WAIT, a part of the step, or as VALIDATION, which is none."""
        begin = time.monotonic()
        yield
        self._spent[what] += time.monotonic() - begin

    def lap(self) -> dict[str, float]:
        """Figures of the time since the last call: "step_seconds", "tokens_per_second" over all devices, DATA_WAIT,
        VALIDATION where there was one, "memory_bytes" (the peak on one device, where the platform tells), and the share
        of the chips' bf16 peak: "mfu" counts attention in full, "mfu_causal" its causal half; neither for a chip that
        parallel/chips.py does not know.
        """
        now, spent = time.monotonic(), self._spent
        seconds = now - self._clock - spent[VALIDATION]
        self._clock, self._spent = now, defaultdict(float)
        rate = self.step_tokens / seconds
        figures = {"step_seconds": seconds, **{name: rate * x / self._peak_flops for name, x in self._flops.items()}}
        figures |= {DATA_WAIT: spent[DATA_WAIT], **({VALIDATION: spent[VALIDATION]} if spent[VALIDATION] else {})}
        memory = (self._device.memory_stats() or {}).get("peak_bytes_in_use")
        return {
            **{name: round(value, 4) for name, value in figures.items()},
            "tokens_per_second": round(rate, 1),
            **({"memory_bytes": memory} if memory is not None else {}),
        }


class Metrics(contextlib.ExitStack):
    """Appends one JSON object a step to metrics.jsonl and the same figures to TensorBoard event files; process 0 does.

    On opening, records of steps from `first_step` on are dropped: the run that is being resumed wrote them after
    its last checkpoint, and they are about to be made again.
    """

    def __init__(self, draft: Draft, shape: PhiConfig, data: Data, rules: Config, first_step: int) -> None:
        super().__init__()
        self.meter = Meter(shape, data.mesh, data.batch_size)
        self._data, self._max_skipped = data, rules.max_skipped
        self._learning_rate = learning_rate_schedule(rules)
        self._pending: dict[str, Any] = {}  # figures of the last step, which the devices may not have computed yet
        self._file: Any = None
        if not processes.is_leader():
            return
        path = draft.directory / "metrics.jsonl"
        write_atomic(path, "".join(_records_before(path, first_step)))
        self._file = self.enter_context(path.open("a"))
        self._board = self.enter_context(ScalarEvents(draft.directory / "tensorboard", first_step))
        tokens = self.meter.step_tokens
        self._bar = self.enter_context(Progress(draft.label, rules.steps * tokens, "tokens", start=first_step * tokens))

    def note(self, step: int, figures: Mapping[str, Any]) -> None:
        """Takes the figures of a step that was dispatched, and writes those of the step before."""
        self.write()
        self._pending = {"step": step, **figures}

    def add_apart(self, name: str, measure: Callable[[], jax.Array]) -> None:
        """Adds a figure to the last step's. The time it takes is no part of the step's."""
        jax.block_until_ready(self._pending)
        with self.meter.clocked(VALIDATION):
            self._pending[name] = jax.block_until_ready(measure())

    def write(self) -> dict[str, Any]:
        """Writes and returns the figures of the last step, as numbers; {} where they are written already.

        Waits for the step. Raises UserError after config.training.max_skipped skipped steps in a row.
        """
        if not self._pending:
            return {}
        pending, self._pending = self._pending, {}
        figures = {k: int(v) if k in ("step", "skipped", "skipped_in_a_row") else float(v) for k, v in pending.items()}
        in_a_row = figures.pop("skipped_in_a_row")
        # The optimizer does not count a skipped step, so neither does its learning rate.
        taken = figures["step"] - figures["skipped"] + (in_a_row > 0)
        record = {**figures, "learning_rate": float(self._learning_rate(taken)), **self.meter.lap()}
        if self._file is not None:
            json_able = {name: value if math.isfinite(value) else None for name, value in record.items()}
            self._file.write(json.dumps(json_able) + "\n")
            self._file.flush()
            self._board.add(int(record["step"]), {name: value for name, value in record.items() if name != "step"})
            self._bar.advance(self.meter.step_tokens, f"loss {record['loss']:.3f}")
        if in_a_row:
            self._name_skipped(figures, int(in_a_row))
        return figures

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
