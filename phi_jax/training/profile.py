"""A jax profile of chosen steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jax
from etils import epath

from phi_jax.errors import UserError
from phi_jax.parallel import processes


class Trace:
    """Profiles the steps from `first` to `last` on process 0; use as a context manager around all steps."""

    def __init__(self, directory: epath.Path, profile_steps: Sequence[int], *, begin: int, end: int) -> None:
        """profile_steps: (first, last), or () for none. begin, end: this run takes the steps from begin to end - 1.

        Steps that it does not take are only said to be missing: finetuning has the profile steps of pretraining.
        Raises UserError for what is no (first, last).
        """
        self._directory = directory
        self._running = False
        self._first, self._last = end, end - 1  # none
        if not profile_steps:
            return
        if len(profile_steps) != 2 or not 0 <= profile_steps[0] <= profile_steps[1]:
            raise UserError(
                f"config.training.profile_steps={tuple(profile_steps)}: give (first, last) with 0 <= first <= last, or "
                "() for no profile"
            )
        self._first, self._last = profile_steps
        if not (self._first < end and begin <= self._last) and not directory.exists():
            processes.say(
                f"no profile: config.training.profile_steps={tuple(profile_steps)} are not among the steps {begin} to "
                f"{end - 1} of this run"
            )

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Call before a step is dispatched."""
        if self._first <= step <= self._last and not self._running and processes.is_leader():
            jax.profiler.start_trace(os.fspath(self._directory))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Call after a step was dispatched, with arrays that it computes."""
        if step == self._last:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
