"""Charts as inline SVG: no script, no request, colours from the page's variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

# Of a drawing that is shown half the page wide, where a unit is about a pixel.
_WIDTH, _HEIGHT = 500, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 12, 36
_BAR_HEIGHT, _BAR_GAP, _BAR_LEFT = 22, 10, 140

Points = Sequence[Sequence[float]]  # of (x, y)


class Bar(NamedTuple):
    """One bar, in %. interval: its 95 % interval, or None. note: what stands behind the figure."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    note: str = ""


def line_chart(series: Sequence[tuple[str, Points]], *, x_label: str, y_label: str, height: int = _HEIGHT) -> str:
    """An SVG of named series of (x, y); a series of few points gets dots. height: in units, of 500 across."""
    points = [p for _, s in series for p in s]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys), height // 46)
    x_low, x_high = min(min(xs), x_ticks[0]), max(max(xs), x_ticks[-1])
    y_low, y_high = min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_low) / ((y_high - y_low) or 1)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(height - _BOTTOM - up * (height - _TOP - _BOTTOM), 1),
        )

    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">']
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(f'<text x="{x}" y="{height - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{height - 2}" text-anchor="end">{escape(x_label)}</text>')
    for number, (_, line) in enumerate(series):
        placed = [place(*point) for point in line]
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline class="series-{number}" points="{path}"/>')
        if len(placed) <= 40:
            parts += [f'<circle class="series-{number}" cx="{x}" cy="{y}" r="3"/>' for x, y in placed]
    parts.append("</svg>")
    legend = "".join(f'<span><i class="series-{n}"></i>{escape(name)}</span>' for n, (name, _) in enumerate(series))
    return f"<figure>{''.join(parts)}<figcaption>{legend}</figcaption></figure>"


def bar_chart(bars: Sequence[Bar], *, kind: str) -> str:
    """Horizontal bars on a scale of 0 to 100 %, with whiskers for intervals. kind: a class, "measured" or "quoted"."""
    height = len(bars) * (_BAR_HEIGHT + _BAR_GAP) + 30
    scale = (_WIDTH - _BAR_LEFT - 66) / 100

    def across(value: float) -> float:
        return round(_BAR_LEFT + value * scale, 1)

    parts = [f'<svg class="bars {kind}" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="pass@1 in percent">']
    for tick in (0, 25, 50, 75, 100):
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height - 24}"/>')
        parts.append(f'<text x="{x}" y="{height - 6}" text-anchor="middle">{tick} %</text>')
    for number, bar in enumerate(bars):
        top = number * (_BAR_HEIGHT + _BAR_GAP) + 4
        middle = top + _BAR_HEIGHT / 2
        end = across(bar.value)
        parts.append(f'<text x="{_BAR_LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>')
        parts.append(
            f'<rect x="{_BAR_LEFT}" y="{top}" width="{max(end - _BAR_LEFT, 1):.1f}" height="{_BAR_HEIGHT}" rx="3"/>'
        )
        if bar.interval:
            low, high = across(bar.interval[0]), across(bar.interval[1])
            parts.append(
                f'<path class="whisker" d="M{low} {middle}H{high}M{low} {middle - 5}v10M{high} {middle - 5}v10"/>'
            )
            end = max(end, high)
        parts.append(
            f'<text class="value" x="{end + 8}" y="{middle + 4}">{escape(bar.note or f"{bar.value:g}")}</text>'
        )
    parts.append("</svg>")
    return "".join(parts)


def histogram(counts: Sequence[int], marked: Sequence[int], *, label: str) -> str:
    """Columns over 0 to 1; `marked` is the part of each column that stands out."""
    width = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    high = max([*counts, 1])
    ticks = _ticks(0, high, 4)
    top = max(high, ticks[-1])

    def up(count: float) -> float:
        return round(count / top * (_HEIGHT - _TOP - _BOTTOM), 1)

    base = _HEIGHT - _BOTTOM
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        y = base - up(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for number, (count, part) in enumerate(zip(counts, marked, strict=True)):
        x = _LEFT + number * width
        for value, name in ((count, "all"), (part, "part")):
            parts.append(
                f'<rect class="{name}" x="{x + 1:.1f}" y="{base - up(value):.1f}" width="{width - 2:.1f}" '
                f'height="{up(value):.1f}"/>'
            )
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = _LEFT + tick * (_WIDTH - _LEFT - _RIGHT)
        parts.append(f'<text x="{x}" y="{base + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{escape(label)}</text></svg>')
    return "".join(parts)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span low..high, about `count` of them."""
    if low == high:
        return [low]
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw)
    first = math.floor(low / step)
    return [round(i * step, 10) for i in range(first, math.ceil(high / step) + 1)]
