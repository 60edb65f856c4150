"""What a user sees of work: its lines; rate and ETA, redrawn on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import io
import sys

PLAIN_LINE_SECONDS = 10.0
verbose = False  # the command line's to set: `--verbose`


def say(line: str, end: str = "\n") -> None:
    """Prints one line for the user, above a progress line that is being redrawn."""
    from tqdm import tqdm

    clear = "\r\033[K" if sys.stderr.isatty() else ""  # of what `at_work` or a key has left there
    with tqdm.external_write_mode(file=sys.stderr):
        print(clear + line, end=end, file=sys.stderr, flush=True)


def note(line: str, *, detail: bool = False) -> None:
    """Prints one line beside those that a reader looks for; a detail with `--verbose` only."""
    if verbose or not detail:
        say(f"  {line}")


def at_work(line: str) -> None:
    """Says what is at work: on a terminal until the next line, elsewhere with `--verbose` only."""
    terminal = sys.stderr.isatty()
    if terminal or verbose:
        say(line, end="" if terminal else "\n")


class Progress:
    """Counts work done. Use as a context manager and call `advance`.

    label: what is being done, e.g. "pretrain/base". total: units in all. start: units that an earlier run did.
    On a terminal the line is redrawn until the work is done; elsewhere one is printed every PLAIN_LINE_SECONDS.
    """

    def __init__(self, label: str, total: int, unit: str, *, start: int = 0) -> None:
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        wait = 0.1 if terminal else PLAIN_LINE_SECONDS
        shown = "{n_fmt}/{total_fmt}{unit} {elapsed}<{remaining} {rate_noinv_fmt}{postfix}"
        self._bar = tqdm(
            total=total, initial=start, desc=label, unit=f" {unit}", unit_scale=total > 100_000, miniters=0,
            mininterval=wait, delay=wait, dynamic_ncols=terminal, leave=False,
            file=sys.stderr if terminal else _Lines(),
            bar_format=("{desc}: {percentage:3.0f}%|{bar}| " if terminal else "{desc}: ") + shown,
        )  # fmt: skip

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Counts `amount` more units; `note` (e.g. "loss 4.1") is shown beside the rate."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(amount)

    def skip(self, amount: int) -> None:
        """Counts `amount` more units that were done before: they say nothing of the rate."""
        self._bar.initial += amount
        self._bar.update(amount)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class _Lines(io.StringIO):
    """For what redraws one line: each drawing becomes a line."""

    def write(self, text: str) -> int:
        if line := text.replace("\x1b[A", "").strip():  # by which tqdm goes back to a line above
            note(line)
        return len(text)
