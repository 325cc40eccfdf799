"""sweep.png: accuracy against budget, one curve a mode, between what public data alone reaches and no privacy at all.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; every curve also has a marker
and a label of its own, so that it survives a black-and-white printer.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedmesh.errors import ConfigError
from fedmesh.federation.overrides import NO_PRIVACY
from fedmesh.simulation.laboratory.sweep.cells import MODES
from fedmesh.simulation.laboratory.sweep.means import Point, public_only

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "fill"]

_INK, _MUTED, _GRID = "#222222", "#666666", "#e4e4e4"
_CURVES: Mapping[str, Mapping[str, Any]] = {
    "local": {"color": "#D55E00", "marker": "o", "label": "local: examples, noise on the device"},
    "shared": {"color": "#0072B2", "marker": "s", "label": "shared: examples, noise in the secure sum"},
    "client": {"color": "#009E73", "marker": "D", "label": "client: whole devices, noise in the secure sum"},
    "central": {
        "color": "#CC79A7",
        "marker": "^",
        "linestyle": (0, (5, 2.5)),
        "label": "central: whole devices, noise by a trusted server",
    },
}

_WIDTH, _HEIGHT, _DPI = 7.4, 5.0, 160
_APART = 0.014
"""Of the horizontal axis, between two modes at one budget, so that their error bars do not hide each other."""
_LINE = 0.05
"""Of the vertical axis: what a line of text takes."""
_DEPTH = 1.0
"""How far below public data the axis goes, by what the best gains over it: what is worth its noise fills the plot."""
_LEAST_SPAN = 0.02
"""Of the vertical axis: noise of the seeds must not look like a mountain range."""


def draw(points: Sequence[Point], *, title: str) -> bytes:
    """The plot of at least one point, as PNG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the plot is drawn by matplotlib: pip install 'fedmesh[simulation]'") from error
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
        fill(ax, points)
        ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
        if ax.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower left", frameon=False, fontsize=9.5, labelcolor=_INK)
        _add_footnote(figure, points)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def fill(ax: "Axes", points: Sequence[Point]) -> None:
    """Draws the curves of at least one point, and what they are compared with, into empty axes."""
    edges = _scale(ax, [point.epsilon for point in points])
    _limits(ax, points)
    _references(ax, points, edges)
    _curves(ax, points, edges)


def _scale(ax: "Axes", epsilons: Sequence[float]) -> tuple[float, float]:
    """A logarithmic axis with a tick for each budget, infinity at its right end; where it starts and ends."""
    finite = sorted({epsilon for epsilon in epsilons if math.isfinite(epsilon)}) or [1.0]
    room = max((finite[-1] / finite[0]) ** 0.12, 1.25)
    start, last = finite[0] / room, finite[-1] * room
    end = last * room**0.6
    ticks = {epsilon: f"{epsilon:g}" for epsilon in finite if epsilon in epsilons}
    if math.inf in epsilons:
        ticks[end] = "∞"
    ax.set_xscale("log")
    ax.set_xlim(start, end)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xticks([], minor=True)
    ax.set_xlabel("privacy budget ε of a device (smaller is a stronger promise)")
    return start, end


def _limits(ax: "Axes", points: Sequence[Point]) -> None:
    ends = [
        mean.mean + side * (mean.standard_error or 0.0)
        for point in points
        for mean in (point.accuracy_int8, point.public_only)
        for side in (-1, 1)
    ]
    highest, start = max(ends), min(point.public_only.mean for point in points)
    lowest = max(min(ends), start - max(_DEPTH * (highest - start), _LEAST_SPAN))
    middle, span = (lowest + highest) / 2, max(highest - lowest, _LEAST_SPAN)
    ax.set_ylim(middle - 0.6 * span, middle + 0.62 * span)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g}%")
    ax.set_ylabel("accuracy on held-out examples (int8)")


def _references(ax: "Axes", points: Sequence[Point], edges: tuple[float, float]) -> None:
    """What needs no budget: the recipe without noise, and public data alone. Their names are right of the axes."""
    start, end = edges
    epsilons = sorted({point.epsilon for point in points})
    best = [mean for epsilon in epsilons if (mean := public_only(points, epsilon)) is not None]
    places, heights = [min(epsilon, end) for epsilon in epsilons], [mean.mean for mean in best]
    if max(heights) - min(heights) < 1e-9:  # one public start for all
        places, heights = [start, end], [heights[0]] * 2
        error = best[0].standard_error or 0.0
        ax.axhspan(heights[0] - error, heights[0] + error, color=_MUTED, alpha=0.12, linewidth=0)
    ax.plot(places, heights, color=_MUTED, linewidth=1.7, linestyle=(0, (1.2, 1.6)))
    names = [(heights[-1], "public data\nonly", _MUTED)]
    for point in points:
        if point.mode == NO_PRIVACY:
            mean = point.accuracy_int8
            ax.axhline(mean.mean, color=_INK, linewidth=1.7)
            ax.errorbar(
                [end], [mean.mean], [mean.standard_error or 0.0], color=_INK, marker="o", markersize=6.5,
                elinewidth=1.3, capsize=3, clip_on=False, zorder=5,
            )  # fmt: skip
            names.append((mean.mean, "no privacy", _INK))
    low, high = ax.get_ylim()
    apart = 1.6 * _LINE * (high - low)
    for height, name, colour in names:
        crowded = len(names) == 2 and abs(names[0][0] - names[1][0]) < apart
        shift = 0.0 if not crowded else apart / 2 * (1 if height >= max(names)[0] else -1)
        ax.annotate(
            name, (1.015, height + shift), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=9.5
        )


def _curves(ax: "Axes", points: Sequence[Point], edges: tuple[float, float]) -> None:
    shown = [mode for mode in MODES if any(point.mode == mode for point in points)]
    step = (edges[1] / edges[0]) ** _APART
    for place, mode in enumerate(shown):
        mine = sorted((point for point in points if point.mode == mode), key=lambda point: point.epsilon)
        style = {"linestyle": "-", **_CURVES[mode]}
        x = [point.epsilon * step ** (place - (len(shown) - 1) / 2) for point in mine]
        y = [point.accuracy_int8.mean for point in mine]
        errors = [point.accuracy_int8.standard_error or 0.0 for point in mine]
        ax.errorbar(x, y, errors, fmt="none", ecolor=style["color"], elinewidth=1.3, capsize=3, zorder=3)
        ax.plot(x, y, linewidth=1.9, markersize=6.5, zorder=3, **style)
        hollow = [(a, b) for a, b, point in zip(x, y, mine, strict=True) if point.hopeless]
        if hollow:
            ax.plot(*zip(*hollow, strict=True), color=style["color"], marker=style["marker"], markersize=6.5,
                    markerfacecolor="white", markeredgewidth=1.5, linestyle="", zorder=4)  # fmt: skip
    _depths(ax, points)


def _depths(ax: "Axes", points: Sequence[Point]) -> None:
    """Means that lie below the axis, as figures at its bottom: one row a mode."""
    low = ax.get_ylim()[0]
    deep = [point for point in points if point.mode != NO_PRIVACY and point.accuracy_int8.mean < low]
    rows = [mode for mode in reversed(MODES) if any(point.mode == mode for point in deep)]
    for point in deep:
        ax.annotate(
            f"▾ {point.mode} {point.accuracy_int8.mean * 100:.0f}%", (point.epsilon, low),
            (0, 4 + 13 * rows.index(point.mode)), textcoords="offset points", ha="center", zorder=5,
            fontsize=9.5, fontweight="bold", color=_CURVES[point.mode]["color"],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        )  # fmt: skip


def _add_footnote(figure: "Figure", points: Sequence[Point]) -> None:
    """As a legend without entries, for which the layout keeps room below the axis as for the other one."""
    note = figure.legend([], [], loc="outside lower right", frameon=False, title=_footnote(points), title_fontsize=8.5)
    note.get_title().set(color=_MUTED, multialignment="right")


def _footnote(points: Sequence[Point]) -> str:
    count = max(len(point.seeds) for point in points)
    lines = ["one seed" if count == 1 else f"mean of {count} seeds, bars and band: one standard error"]
    deltas = sorted({point.delta for point in points if point.delta is not None})
    if deltas:
        lines.append("δ = " + ", ".join(f"{delta:g}".replace("e-0", "e-") for delta in deltas))
    if any(point.hopeless and point.mode != NO_PRIVACY for point in points):
        lines.append("hollow or ▾: not shown to beat public data")
    return "\n".join(reversed(lines))


_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.parse_math": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
