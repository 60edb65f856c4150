"""What is measured in a training run, and where it goes: JSON lines, TensorBoard, the progress line, a profile."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from etils import epath
from jax.sharding import Mesh

from phi_jax.model.flops import training_flops_per_token
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel import processes
from phi_jax.parallel.chips import chip_of
from phi_jax.progress import Progress
from phi_jax.store.artifact import write_atomic
from phi_jax.training.tensorboard import ScalarEvents


class Meter:
    """Clocks the steps of this process."""

    def __init__(self, shape: PhiConfig, mesh: Mesh, batch_size: int) -> None:
        self.step_tokens = batch_size * shape.max_seq_len
        chip = chip_of(mesh.devices.flat[0].device_kind)
        self._peak_flops = chip.peak_flops * mesh.devices.size if chip else None
        self._flops = {
            "mfu": training_flops_per_token(shape, causal=False),
            "mfu_causal": training_flops_per_token(shape, causal=True),
        }
        self._device = mesh.local_devices[0]
        self._waited = 0.0
        self._apart = 0.0
        self._clock = time.monotonic()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is done within is no part of a step: its seconds stand beside those of the step."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._apart += time.monotonic() - begin

    def waiting(self, stream: Iterator[Any]) -> Any:
        """The next item; the time it takes counts as waiting for data."""
        begin = time.monotonic()
        item = next(stream)
        self._waited += time.monotonic() - begin
        return item

    def lap(self) -> dict[str, float]:
        """Figures of the time since the last call: "step_seconds", "tokens_per_second" over all devices,
        "data_wait_seconds", "validation_seconds" where something was done `apart`, "memory_bytes" (the peak on one
        device, where the platform tells), and the share of the chips' bf16 peak: "mfu" counts attention in full,
        "mfu_causal" its causal half; neither for a chip that parallel/chips.py does not know.
        """
        now = time.monotonic()
        seconds, self._clock = now - self._clock - self._apart, now
        waited, self._waited = self._waited, 0.0
        apart, self._apart = self._apart, 0.0
        rate = self.step_tokens / seconds
        found = {
            "step_seconds": round(seconds, 4),
            "tokens_per_second": round(rate, 1),
            "data_wait_seconds": round(waited, 4),
        }
        if apart:
            found["validation_seconds"] = round(apart, 4)
        if self._peak_flops:
            found |= {name: round(rate * flops / self._peak_flops, 4) for name, flops in self._flops.items()}
        memory = self._device.memory_stats()
        if memory and "peak_bytes_in_use" in memory:
            found["memory_bytes"] = memory["peak_bytes_in_use"]
        return found


class Metrics:
    """Appends one JSON object a step to metrics.jsonl and the same figures to TensorBoard event files; process 0 does.

    On opening, records of steps from `first_step` on are dropped: the run that is being resumed wrote them after
    its last checkpoint, and they are about to be made again.
    """

    def __init__(
        self,
        directory: epath.Path,
        label: str,
        meter: Meter,
        learning_rate: Any,
        *,
        first_step: int,
        steps: int,
    ) -> None:
        """learning_rate: the schedule, of the steps that were taken."""
        self.meter = meter
        self._learning_rate = learning_rate
        self._open = contextlib.ExitStack()
        self._file: Any = None
        if not processes.is_leader():
            return
        path = directory / "metrics.jsonl"
        write_atomic(path, "".join(_records_before(path, first_step)))
        self._file = self._open.enter_context(path.open("a"))
        self._board = self._open.enter_context(ScalarEvents(directory / "tensorboard", first_step))
        done = first_step * meter.step_tokens
        self._bar = self._open.enter_context(Progress(label, steps * meter.step_tokens, "tokens", start=done))

    def write(self, pending: Mapping[str, Any]) -> dict[str, Any]:
        """Reads a step's figures from the devices, which waits for it, and writes them with the meter's.

        pending: "step", "loss", "grad_norm", "skipped", "skipped_in_a_row" and, those of the validation.
        Returns them as numbers.
        """
        figures = {k: int(v) if k in ("step", "skipped", "skipped_in_a_row") else float(v) for k, v in pending.items()}
        # The optimizer does not count a skipped step, so neither does its learning rate.
        taken = figures["step"] - figures["skipped"] + (figures["skipped_in_a_row"] > 0)
        record = {k: v for k, v in figures.items() if k != "skipped_in_a_row"}
        record |= {"learning_rate": float(self._learning_rate(taken)), **self.meter.lap()}
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            self._board.add(int(record["step"]), {name: value for name, value in record.items() if name != "step"})
            self._bar.advance(self.meter.step_tokens, f"loss {record['loss']:.3f}")
        return figures

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)


def _records_before(path: epath.Path, step: int) -> Iterator[str]:
    """The lines of metrics.jsonl that are of earlier steps."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] < step:
                yield line + "\n"
        except ValueError:  # the last line of a killed run may be cut short
            continue
