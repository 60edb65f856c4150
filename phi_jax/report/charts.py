"""Charts as SVG that stands in the page: its colours are the page's, and the same numbers give the same bytes."""

from __future__ import annotations

import io
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
    "legend.frameon": False,
}  # fmt: skip


def bars(scores: Mapping[str, Mapping[str, Any]], paper: Mapping[str, Any]) -> str:
    """Our models' scores ({"value", "low", "high"}, shares) with intervals; beside them the paper's bars.

    paper: as paper.FIGURE_2_1; a model that it does not know has no bar there.
    """

    def draw(figure: Figure) -> None:
        ours, theirs = figure.subplots(1, 2, sharey=True)
        ours.set_title("this run: pass@1 (%), 95 % interval")
        theirs.set_title(f"the paper: {paper['benchmark']} pass@1 (%)   * uncertain")
        for place, score in enumerate(scores.values()):
            _bar(ours, place, score)
        for number, (name, group) in enumerate(paper["groups"].items()):
            for place, model in enumerate(scores):
                if model in group:
                    value, uncertain = group[model]
                    middle = place + 0.26 * (number - 1)
                    theirs.barh(middle, value, 0.2, color="none", edgecolor=_MUTED, linestyle=(0, (3, 2)))
                    theirs.text(value + 2, middle, f"{value}{' *' * uncertain}   {name}", va="center", fontsize=8)
        for axes in (ours, theirs):
            _percent(axes, list(scores))

    return _svg(draw, (9.4, 0.9 + 0.62 * len(scores)), "pass@1 in percent, this run and the paper")


def seeds(scores: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """A bar for each mean ({"value", "low", "high"}, shares), its interval, and a dot for each of its "values"."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_title(title)
        for place, score in enumerate(scores.values()):
            _bar(axes, place, score)
            if len(score["values"]) > 1:
                dots = [100 * value for value in score["values"]]
                axes.plot(dots, [place] * len(dots), "o", color=_SECOND, markersize=3.5)
        _percent(axes, list(scores))

    return _svg(draw, (7.2, 0.9 + 0.42 * len(scores)), title)


def _bar(axes: Axes, place: int, score: Mapping[str, Any]) -> None:
    value, low, high = (100 * score[name] for name in ("value", "low", "high"))
    axes.barh(place, value, 0.5, color=_ACCENT)
    axes.plot([low, high], [place, place], color=_INK, linewidth=1.2, marker="|", markersize=6)
    axes.text(max(value, high) + 2, place, f"{value:.1f}", va="center")


def _percent(axes: Axes, names: Sequence[str]) -> None:
    """From 0 to 100 %, a name for each bar, the first on top."""
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 25))
    axes.grid(axis="y", visible=False)
    axes.set_yticks(range(len(names)), names, color=_INK)
    axes.set_ylim(len(names) - 0.45, -0.55)


def lines(series: Mapping[str, Sequence[Sequence[float]]], y_label: str) -> str:
    """Named series of (step, value), of which one may be empty; of few points each gets a dot."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (name, points), color in zip(series.items(), (_ACCENT, _SECOND), strict=False):
            if points:
                dot = "o" if len(points) <= 40 else ""
                axes.plot(*zip(*points, strict=True), color=color, label=name, linewidth=1.6, marker=dot, markersize=3)
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        axes.legend()

    return _svg(draw, (4.6, 2.4), f"{y_label} by step")


def _svg(draw: Callable[[Figure], None], size: tuple[float, float], label: str) -> str:
    """What `draw` draws in a figure of this size (inches), in the page's colours."""
    import matplotlib.style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(size, layout="constrained")
        draw(figure)
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
