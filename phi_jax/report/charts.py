"""Charts as SVG that stands in the page: its colours are the page's, and the same numbers give the same bytes."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that matplotlib writes -> what the page draws them in, light or dark.
_COLORS = {
    "#010101": "currentColor",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    "#040404": "var(--accent)",
    "#050505": "var(--accent-2)",
}
_INK, _MUTED, _RULE, _ACCENT, _SECOND = _COLORS
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "phi_jax", "font.size": 9, "text.color": _INK, "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED, "axes.titlecolor": _MUTED, "axes.titlesize": 9, "axes.titlelocation": "left",
    "xtick.color": _MUTED, "ytick.color": _MUTED, "grid.color": _RULE, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "ytick.major.size": 0,
    "legend.frameon": False, "text.parse_math": False,
}  # fmt: skip


def bars(rows: Sequence[tuple[str, Mapping[str, Any], Sequence[str]]], ours: str, theirs: str) -> str:
    """Our scores with intervals, and beside them the paper's where it has any.

    rows: (name, score, the paper's), the first on top. A score is {"value", "low", "high"} in shares, with "values"
    where there are several, a dot each; {} under a name makes it a heading. Each of the paper's begins with a number in
    %; where it holds a "*" nobody has verified it, and its bar is dashed. ours, theirs: titles, which say of how many
    problems the scores are.
    """
    most = max(len(texts) for *_, texts in rows)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 1 + bool(most), sharey=True, squeeze=False)[0]
        for axes, title in zip(panels, (ours, theirs), strict=False):
            axes.set(title=title, xlabel="pass@1 (% of problems)", xlim=(0, 150), xticks=range(0, 101, 25))
            axes.grid(axis="y", visible=False)
        panels[0].set_ylim(len(rows) - 0.45, -0.55)
        labels = panels[0].set_yticks(range(len(rows)), [name for name, *_ in rows], color=_INK)
        for place, (label, (_, score, texts)) in enumerate(zip(labels, rows, strict=True)):
            if score:
                _bar(panels[0], place, score)
            else:
                label.label1.set_fontweight("bold")
            for number, text in enumerate(texts):
                value, middle = float(text.split()[0]), place + 0.26 * (number - (len(texts) - 1) / 2)
                line = (0, (3, 2)) if "*" in text else "-"
                panels[1].barh(middle, value, 0.6 / (most + 0.5), color="none", edgecolor=_MUTED, linestyle=line)
                panels[1].text(value + 2, middle, text, va="center", fontsize=8)

    return _svg(draw, (9.4, 0.9 + (0.4 + 0.1 * most) * len(rows)), f"pass@1: {ours}")


def _bar(axes: Axes, place: int, score: Mapping[str, Any]) -> None:
    value, low, high = (100 * score[name] for name in ("value", "low", "high"))
    axes.barh(place, value, 0.5, color=_ACCENT)
    axes.plot([low, high], [place, place], color=_INK, linewidth=1.2, marker="|", markersize=6)
    axes.text(max(value, high) + 2, place, f"{value:.1f} ({low:.1f} to {high:.1f})", va="center")
    if len(seeds := score.get("values", ())) > 1:
        axes.plot([100 * seed for seed in seeds], [place] * len(seeds), "o", color=_SECOND, markersize=3.5)


def lines(series: Mapping[str, Sequence[Sequence[float]]], y_label: str, x_label: str = "optimizer step") -> str:
    """At most four named series of (x, y), of which some may be empty; of few points each gets a dot."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        styles = itertools.product(("-", "--"), (_ACCENT, _SECOND))
        for (name, points), (line, color) in zip(series.items(), styles, strict=False):
            if points:
                dot, width = ("o", 1.6) if len(points) <= 40 else ("", 0.8)
                axes.plot(
                    *zip(*points, strict=True), line, color=color, label=name, linewidth=width, marker=dot, markersize=3
                )
        axes.set(xlabel=x_label, ylabel=y_label)
        figure.legend(loc="outside upper left", ncols=2)

    return _svg(draw, (4.6, 2.4), f"{y_label} by {x_label}")


def _svg(draw: Callable[[Figure], None], size: tuple[float, float], label: str) -> str:
    """What `draw` draws in a figure of this size (inches), in the page's colours; label: for who cannot see it."""
    import matplotlib.style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(size, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Title": label})
    svg = buffer.getvalue()
    svg = re.sub(r'(?s)^.*?<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', svg)
    svg = re.sub(r"(?s)<(style|metadata).*?</\1>", "", svg)  # a style would be the whole page's
    svg = re.sub(r' id="[A-Za-z.0-9]+(?:_\d+)+"', "", svg)  # matplotlib counts from 1 in every figure of the page
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for written, shown in _COLORS.items():
        svg = svg.replace(written, shown)
    return svg
