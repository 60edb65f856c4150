"""Scalars in TensorBoard's event files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FLUSH_STEPS = 20  # from one flush to the next, each of which waits for the disk


class ScalarEvents(contextlib.ExitStack):
    """An event file in `directory`, which begins by saying that steps from `first_step` on are about to be made again.

    tensorboardX's own SummaryWriter hands events to a thread: a disk that fills up ends that thread, and then the
    training waits for it for ever. Here the caller gets the OSError.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        super().__init__()
        directory.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(os.fspath(directory / "events"))
        self.callback(self._file.close)
        self._write(first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One value a name, of `step`."""
        summary = [{"tag": name, "simple_value": value} for name, value in values.items()]
        self._write(step, summary={"value": summary})

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(step=step, wall_time=time.time(), **what))
        if step % _FLUSH_STEPS == 0:
            self._file.flush()
