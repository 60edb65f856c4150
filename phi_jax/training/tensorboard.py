"""Scalars in TensorBoard's event files."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FLUSH_SECONDS = 10.0  # between two flushes, each of which waits for the disk


class ScalarEvents:
    """An event file in `directory`, which begins by saying that steps from `first_step` on are about to be made again.

    tensorboardX's own SummaryWriter hands events to a thread: a disk that fills up ends that thread, and then the
    training waits for it for ever. Here the caller gets the OSError.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        directory.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(os.fspath(directory / "events"))
        self._flushed = time.monotonic()
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One value a name, of `step`."""
        summary = [value for name, number in values.items() for value in self._scalar(name, number).value]
        self._write(self._event(step=step, summary={"value": summary}))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def __enter__(self) -> ScalarEvents:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
