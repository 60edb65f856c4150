"""What is measured in a training run, and where it goes: JSON lines, TensorBoard, the progress line, a profile."""

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils.epath import Path

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel import processes
from phi_jax.parallel.chips import chip_of
from phi_jax.progress import Progress
from phi_jax.store.artifact import Draft, Json, write_atomic
from phi_jax.store.json_text import json_text
from phi_jax.training.data import Data
from phi_jax.training.optimizer import learning_rate_schedule

_FLUSH_STEPS = 20  # from one flush to the next, each of which waits for the disk


class Metrics(contextlib.ExitStack):
    """Appends one JSON object a step to metrics.jsonl and the same figures to TensorBoard event files; process 0 does.

    On opening, records of steps from `first_step` on are dropped: the run that is being resumed wrote them after
    its last checkpoint, and they are about to be made again.

    Beside the step's own figures a record has "learning_rate", "step_seconds" (without the time of validations),
    "tokens_per_second" over all devices, and "mfu", their share of the chips' bf16 peak with attention counted in full,
    where parallel/chips.py knows the chip.
    """

    def __init__(self, draft: Draft, shape: PhiConfig, data: Data, rules: Config, first_step: int) -> None:
        super().__init__()
        self._data, self._max_skipped = data, rules.max_skipped
        self._learning_rate = learning_rate_schedule(rules)
        self._step_tokens = data.batch_size * shape.max_seq_len
        self._flops_per_token = training_flops_per_token(shape)
        chip = chip_of(data.mesh.local_devices[0].device_kind)
        self._peak_flops = chip.peak_flops * data.mesh.devices.size if chip else None
        self.loss: float | None = None  # of the last step that metrics.jsonl holds
        self._pending: Json = {}  # figures of the last step, which the devices may not have computed yet
        self._clock = time.monotonic()
        if processes.is_leader():
            path = draft.directory / "metrics.jsonl"
            records = list(_records_before(path, first_step))
            self.loss = json.loads(records[-1])["loss"] if records else None
            write_atomic(path, "".join(records))
            self._file = self.enter_context(path.open("a"))
            self._board = self.enter_context(ScalarEvents(draft.directory / "tensorboard", first_step))
            self._open_bar = functools.partial(Progress, draft.label, rules.steps * self._step_tokens, "tokens")
            self._bar: Progress | None = None

    def note(self, step: int, figures: Mapping[str, Any]) -> None:
        """Takes the figures of a step that was dispatched, and writes those of the step before."""
        self.write()
        self._pending = {"step": step, **figures}

    def add_apart(self, name: str, measure: Callable[[], jax.Array]) -> None:
        """Adds a figure to the last step's. The time it takes is no part of the step's."""
        jax.block_until_ready(self._pending)
        begin = time.monotonic()
        self._pending[name] = jax.block_until_ready(measure())
        self._clock += time.monotonic() - begin

    def write(self) -> Json:
        """Writes and returns the figures of the last step, as numbers; {} where they are written already.

        Waits for the step. Raises UserError after config.training.max_skipped skipped steps in a row.
        """
        if not self._pending:
            return {}
        # All of them on their way at once: one by one, each would be a wait of its own. It sorts the names.
        found = jax.device_get(self._pending)
        figures = {name: np.asarray(found[name]).item() for name in self._pending}
        self._pending = {}
        in_a_row = figures.pop("skipped_in_a_row")
        seconds = time.monotonic() - self._clock
        self._clock += seconds
        rate = self._step_tokens / seconds
        # The optimizer does not count a skipped step, so neither does its learning rate.
        taken = figures["step"] - figures["skipped"] + (in_a_row > 0)
        record = {**figures, "learning_rate": float(self._learning_rate(taken)), "step_seconds": seconds,
                  "tokens_per_second": rate}  # fmt: skip
        if self._peak_flops:
            record["mfu"] = rate * self._flops_per_token / self._peak_flops
        if processes.is_leader():
            self._file.write(json_text(record) + "\n")
            self._file.flush()
            self._board.add(figures["step"], record)
            if self._bar is None:  # the first step compiles, which says nothing of the rate
                self._bar = self.enter_context(self._open_bar(start=(figures["step"] + 1) * self._step_tokens))
            else:
                self._bar.advance(self._step_tokens, f"loss {record['loss']:.3f}")
        self.loss = record["loss"]
        if in_a_row:
            self._name_skipped(figures, in_a_row)
        return figures

    def _name_skipped(self, figures: Mapping[str, Any], in_a_row: int) -> None:
        step = figures["step"]
        processes.note(
            f"step {step} skipped: loss {figures['loss']:.4g}, gradient norm {figures['grad_norm']:.4g}; "
            f"records {', '.join(map(str, self._data.train.record_numbers(step)))}"
        )
        if in_a_row >= self._max_skipped:
            raise UserError(
                f"step {step}: {in_a_row} steps in a row were skipped, as many as config.training.max_skipped; lower "
                "the learning rate, or look at the records named above"
            )


def _records_before(path: Path, step: int) -> Iterator[str]:
    """The lines of metrics.jsonl that are of earlier steps."""
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # the last line of a killed run may be cut short
            if json.loads(line)["step"] < step:
                yield line + "\n"


class ScalarEvents(contextlib.ExitStack):
    """An event file in `directory`, which begins by saying that steps from `first_step` on are about to be made again.

    tensorboardX's own SummaryWriter hands events to a thread: a disk that fills up ends that thread, and then the
    training waits for it for ever. Here the caller gets the OSError.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        # tensorboardX imports torch where there is one: three seconds of a core, for what is not used here.
        torch = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        from tensorboardX.event_file_writer import EventsWriter

        if not torch:
            del sys.modules["torch"]
        super().__init__()
        directory.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(os.fspath(directory / "events"))
        self.callback(self._file.close)
        self._write(first_step, session_log={"status": "START"})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One value a name, of `step`."""
        self._write(step, summary={"value": [{"tag": name, "simple_value": value} for name, value in values.items()]})

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(step=step, wall_time=time.time(), **what))
        if step % _FLUSH_STEPS == 0:
            self._file.flush()


class Profile(contextlib.ExitStack):
    """A jax profile of the steps from `first` to `last`, for TensorBoard or Perfetto; process 0 takes it.

    Use as a context manager around all steps.
    """

    def __init__(self, directory: Path, steps: Sequence[int], *, begin: int, end: int) -> None:
        """steps: (first, last), or () for none. begin, end: this run takes the steps from begin to end - 1.

        Steps that it does not take are only said to be missing: finetuning has the profile steps of pretraining.
        """
        super().__init__()
        self._directory = directory
        first, last = steps or (end, end)
        self._begin, self._end = max(first, begin), min(last + 1, end)  # steps taken before and after the profile
        if steps and self._begin >= self._end and not directory.exists():
            processes.note(
                f"no profile: config.training.profile_steps={tuple(steps)} are not among the steps {begin} to "
                f"{end - 1} of this run"
            )
        self.at(begin, ())

    def at(self, step: int, results: Any) -> None:
        """Call when `step` steps are dispatched, with arrays that the last of them computes."""
        if step == self._begin < self._end and processes.is_leader():
            jax.profiler.start_trace(os.fspath(self._directory))
            self.callback(jax.profiler.stop_trace)
        elif step == self._end:
            jax.block_until_ready(results)
            self.close()
