"""Figures as the page shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{64}")


def number(value: float) -> str:
    """1234567 -> "1,234,567"; a float keeps its digits."""
    return f"{value:,}"


def percent(share: float) -> str:
    """0.1234 -> "12.3 %"."""
    return f"{100 * share:.1f} %"


def show(value: Any) -> str:
    """A figure, a word, or the beginning of a digest."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return value[:12] if isinstance(value, str) and _DIGEST.fullmatch(value) else str(value)


def table(rows: Sequence[tuple[str, str]], head: tuple[str, str] | None = None) -> str:
    """Two columns: what, and the figure."""
    top = f"<tr><th>{escape(head[0])}</th><th>{escape(head[1])}</th></tr>" if head else ""
    lines = "".join(f'<tr><td>{escape(a)}</td><td class="number">{escape(b)}</td></tr>' for a, b in rows)
    return f"<table>{top}{lines}</table>"


# --- Tables of several columns ---------------------------------------------------------------------------------------

TO_FILL = '<span class="muted">–</span>'  # a cell that has no figure


def signed(difference: float) -> str:
    """A difference of two shares in percentage points: -0.125 -> "−12.5"."""
    points = f"{100 * difference:+.1f}"
    return "0.0" if points in ("+0.0", "-0.0") else points.replace("-", "−")


def probability(p: float) -> str:
    """0.04321 -> "0.043"; "< 0.001" below that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(score: Mapping[str, Any]) -> str:
    """The bounds of an entry of scores.json."""
    return f"{percent(score['low'])} to {percent(score['high'])}"


def muted(text: str) -> str:
    """HTML that stands back."""
    return f'<span class="muted">{text}</span>'


def card(body: str) -> str:
    """A box that scrolls where its table is too wide for the window."""
    return f'<div class="card scroll">{body}</div>'


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of HTML cells. Neighbours that are alike in the first column become one cell. kind: a class."""
    top = "".join(f"<th>{name}</th>" for name in head)
    lines, start = [], 0
    for i, row in enumerate(rows):
        cells = row
        if i and row[0] == rows[start][0]:
            cells = row[1:]
        else:
            start = i
        span = next((n for n in range(i, len(rows)) if rows[n][0] != row[0]), len(rows)) - i
        lines.append("".join(
            f'<td rowspan="{span}">{cell}</td>' if start == i and place == 0 and span > 1 else f"<td>{cell}</td>"
            for place, cell in enumerate(cells)
        ))  # fmt: skip
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table class="columns {kind}"><tr>{top}</tr>{body}</table>'


def scale(value: float, low: float | None, high: float | None, *, bottom: float = 0.0) -> str:
    """A share, or a difference of shares (bottom=-1), and its interval as a mark on the way from `bottom` to 1.

    low, high: None where nothing is known of the interval; the mark then stands alone.
    """

    def along(x: float) -> float:
        return 100 * (x - bottom) / (1 - bottom)

    band = ""
    if low is not None and high is not None:
        band = f'<i style="left:{along(low):.1f}%;width:{along(high) - along(low):.1f}%"></i>'
    zero = f'<u style="left:{along(0):.1f}%"></u>' if bottom < 0 else ""
    return f'<div class="range">{zero}{band}<b style="left:{min(along(value), 99):.1f}%"></b></div>'
