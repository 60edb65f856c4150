"""Charts as SVG that stands in the page: its colours are the page's, and the same numbers give the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "legend.frameon": False,
}  # fmt: skip


def bars(scores: Mapping[str, Mapping[str, Any]], paper: Mapping[str, Any]) -> str:
    """Our models' scores ({"value", "low", "high"}, shares) with intervals; beside them the paper's bars.

    paper: as paper.FIGURE_2_1; a model that it does not know has no bar there.
    """
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        figure = _figure(9.4, 0.9 + 0.62 * len(scores))
        ours, theirs = figure.subplots(1, 2, sharey=True)
        ours.set_title("this run: pass@1 (%), 95 % interval")
        theirs.set_title(f"the paper: {paper['benchmark']} pass@1 (%)   * uncertain")
        for place, score in enumerate(scores.values()):
            value, low, high = (100 * score[name] for name in ("value", "low", "high"))
            ours.barh(place, value, 0.5, color=_ACCENT)
            ours.plot([low, high], [place, place], color=_INK, linewidth=1.2, marker="|", markersize=6)
            ours.text(max(value, high) + 2, place, f"{value:.1f}", va="center")
        for number, (name, group) in enumerate(paper["groups"].items()):
            for place, model in enumerate(scores):
                if model in group:
                    value, uncertain = group[model]
                    middle = place + 0.26 * (number - 1)
                    theirs.barh(middle, value, 0.2, color="none", edgecolor=_MUTED, linestyle=(0, (3, 2)))
                    theirs.text(value + 2, middle, f"{value}{' *' * uncertain}   {name}", va="center", fontsize=8)
        for axes in (ours, theirs):
            axes.set_xlim(0, 112)
            axes.set_xticks(range(0, 101, 25))
            axes.grid(axis="y", visible=False)
        ours.set_yticks(range(len(scores)), list(scores), color=_INK)
        ours.set_ylim(len(scores) - 0.45, -0.55)
        return _svg(figure, "pass@1 in percent, this run and the paper")


def lines(series: Mapping[str, Sequence[Sequence[float]]], y_label: str) -> str:
    """Named series of (step, value); of few points each gets a dot."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        figure = _figure(4.6, 2.4)
        axes = figure.subplots()
        for (name, points), color in zip(series.items(), (_ACCENT, _SECOND), strict=False):
            marker = "o" if len(points) <= 40 else ""
            axes.plot(*zip(*points, strict=True), color=color, label=name, linewidth=1.6, marker=marker, markersize=3)
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        axes.legend()
        return _svg(figure, f"{y_label} by step")


def histogram(counts: Sequence[int], kept: Sequence[int]) -> str:
    """All files by score, from 0 to 1, and the part of each column that was kept."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        figure = _figure(4.6, 2.4)
        axes, width = figure.subplots(), 1 / len(counts)
        for heights, color, name in ((counts, _RULE, "all files"), (kept, _ACCENT, "kept")):
            places = [width * (number + 0.5) for number in range(len(heights))]
            axes.bar(places, heights, 0.9 * width, color=color, label=name)
        axes.set_xlim(0, 1)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("score")
        axes.set_ylabel("files")
        axes.legend()
        return _svg(figure, "files by score")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    root = rf'<svg \1 role="img" aria-label="{label}">'
    svg = re.sub(r'^.*?<svg [^>]*?(viewBox="[^"]*")[^>]*>', root, svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg)  # it would be the whole page's
    svg = re.sub(r' id="[A-Za-z.0-9]+(?:_\d+)+"', "", svg)  # matplotlib counts from 1 in every figure of the page
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for written, shown in _COLORS.items():
        svg = svg.replace(written, shown)
    return svg
