"""Progress of long work: rate and ETA, redrawn on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

PLAIN_LINE_SECONDS = 10.0


def say(line: str) -> None:
    """Prints one line for the user, above a progress line that is being redrawn."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        print(line, file=sys.stderr, flush=True)


class Progress:
    """Counts work done. Use as a context manager and call `advance`.

    label: what is being done, e.g. "pretrain/base". total: units in all. start: units that an earlier run did.
    On a terminal the line is redrawn; elsewhere a line is printed every PLAIN_LINE_SECONDS and at the end.
    """

    def __init__(self, label: str, total: int, unit: str, *, start: int = 0) -> None:
        from tqdm import tqdm

        self._label, self._total, self._unit = label, total, unit
        self._done = self._start = start
        self._note = ""
        self._begin = self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, desc=label, unit=f" {unit}", unit_scale=total > 100_000,
                dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Counts `amount` more units; `note` (e.g. "loss 4.1") is shown beside the rate."""
        self._done += amount
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._print()

    def skip(self, amount: int) -> None:
        """Counts `amount` more units that were done before: they say nothing of the rate."""
        self._done += amount
        self._start += amount
        if self._bar is not None:
            self._bar.initial += amount
            self._bar.update(amount)

    def _print(self) -> None:
        from tqdm import tqdm

        self._last = time.monotonic()
        line = tqdm.format_meter(
            self._done, self._total, self._last - self._begin, initial=self._start, prefix=self._label,
            unit=f" {self._unit}", unit_scale=self._total > 100_000, postfix=self._note,
            bar_format="{desc}: {n_fmt}/{total_fmt}{unit} {elapsed}<{remaining} {rate_fmt}{postfix}",
        )  # fmt: skip
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._print()
