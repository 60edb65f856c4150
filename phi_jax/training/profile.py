"""A jax profile of chosen steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jax
from etils import epath

from phi_jax.parallel import processes


class Profile:
    """Profiles the steps from `first` to `last` on process 0; use as a context manager around all steps."""

    def __init__(self, directory: epath.Path, steps: Sequence[int], *, begin: int, end: int) -> None:
        """steps: (first, last), or () for none. begin, end: this run takes the steps from begin to end - 1.

        Steps that it does not take are only said to be missing: finetuning has the profile steps of pretraining.
        """
        self._directory, self._running = directory, False
        self._first, self._last = steps or (end, end)
        if steps and not (self._first < end and begin <= self._last) and not directory.exists():
            processes.say(
                f"no profile: config.training.profile_steps={tuple(steps)} are not among the steps {begin} to "
                f"{end - 1} of this run"
            )
        self._end = end
        self.at(begin, ())

    def at(self, step: int, results: Any) -> None:
        """Call when `step` steps are dispatched, with arrays that the last of them computes."""
        if self._running and step > self._last:
            jax.block_until_ready(results)
            self._stop()
        elif not self._running and self._first <= step <= self._last and step < self._end and processes.is_leader():
            jax.profiler.start_trace(os.fspath(self._directory))
            self._running = True

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
