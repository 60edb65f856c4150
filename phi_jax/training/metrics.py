"""Where the figures of a training run go: JSON lines, TensorBoard, the progress line."""

from __future__ import annotations

import json
import os
from types import TracebackType
from typing import Any

from etils import epath

from phi_jax.artifact import write_atomic


class Metrics:
    """Appends one JSON object a step to metrics.jsonl and the same figures to TensorBoard event files.

    On opening, records of steps from `first_step` on are dropped: the run that is being resumed wrote them after
    its last checkpoint, and they are about to be made again.
    """

    def __init__(self, directory: epath.Path, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._path = directory / "metrics.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # the last line of a killed run may be cut short
                    continue
                if record["step"] < first_step:
                    kept.append(line + "\n")
        write_atomic(self._path, "".join(kept))
        self._file = open(self._path, "a")  # noqa: SIM115 - closed by __exit__
        self._board = SummaryWriter(os.fspath(directory / "tensorboard"), purge_step=first_step)

    def write(self, record: dict[str, Any]) -> None:
        """record: "step" and figures of that step; figures that were not taken are left out."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, record["step"])

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()
