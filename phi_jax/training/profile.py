"""A jax profile of chosen steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from phi_jax.parallel import processes


class Profile(contextlib.ExitStack):
    """Profiles the steps from `first` to `last` on process 0; use as a context manager around all steps."""

    def __init__(self, directory: epath.Path, steps: Sequence[int], *, begin: int, end: int) -> None:
        """steps: (first, last), or () for none. begin, end: this run takes the steps from begin to end - 1.

        Steps that it does not take are only said to be missing: finetuning has the profile steps of pretraining.
        """
        super().__init__()
        self._directory = directory
        first, last = steps or (end, end)
        self._begin, self._end = max(first, begin), min(last + 1, end)  # steps taken before and after the profile
        if steps and self._begin >= self._end and not directory.exists():
            processes.say(
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
