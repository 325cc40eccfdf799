"""The report's plots: functions from figures of a result to SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.dashboard.svg import CARD, FIRST, HEAT, INK, MUTED, ON_HEAT, SECOND, WARNING, axes
from fedmesh.dashboard.text import milliseconds, number, percent, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "accuracy_by_device",
    "accuracy_by_round",
    "bytes_sent",
    "epsilon_by_round",
    "failures",
    "latency",
    "partition",
    "seconds_by_round",
    "survivors",
]

_PERCENTILES = ("p50", "p95", "p99")
_MOST_LABELLED = 16
"""Devices drawn each with its name and figures; larger fleets are drawn without."""
_MOST_FAILED = 30
_MOST_BARS = 60
"""Bars with room between them."""
MOST_ROWS = 80
"""Rows of the partition: of a larger fleet this many devices are shown."""


def accuracy_by_round(rounds: Sequence[Mapping[str, Any]], start: float | None, final_float: float | None) -> str:
    """The int8 model's accuracy after every round, from the public start, and what float32 reached in the end."""
    x = [row["round"] for row in rounds]
    y = [row["accuracy_int8"] for row in rounds]
    if start is not None:
        x, y = [0, *x], [start, *y]
    with axes("accuracy-by-round") as (ax, svg):
        if final_float is not None:
            ax.axhline(final_float, color=SECOND, linewidth=1.2, linestyle=(0, (4, 3)))
            ax.annotate(
                f"float32 {percent(final_float)}", (x[0], final_float), (0, 4), textcoords="offset points", color=SECOND
            )
        ax.plot(x, y, color=FIRST, linewidth=2, marker="o" if len(x) <= 40 else None, markersize=3.5)
        ax.plot(x[-1:], y[-1:], color=FIRST, marker="o", markersize=6)
        ax.annotate(
            percent(y[-1]), (x[-1], y[-1]), (0, -14), textcoords="offset points", ha="right", color=FIRST, weight="bold"
        )
        low, high = _room([v for v in (*y, final_float) if v is not None])
        ax.set_ylim(max(0.0, low), min(1.02, high))
        _percent_axis(ax.yaxis)
        _round_axis(ax, x)
    return svg.text


def epsilon_by_round(rounds: Sequence[Mapping[str, Any]], budget: float | None) -> str:
    """Epsilon spent by the device that spent most, after every round, and the budget."""
    x = [0, *(row["round"] for row in rounds)]
    y = [0.0, *(row["epsilon"] for row in rounds)]
    with axes("epsilon-by-round") as (ax, svg):
        if budget is not None:
            ax.axhline(budget, color=WARNING, linewidth=1.2, linestyle=(0, (4, 3)))
            ax.annotate(f"budget {number(budget)}", (0, budget), (2, 4), textcoords="offset points", color=WARNING)
        ax.fill_between(x, y, color=FIRST, alpha=0.14, linewidth=0, step="pre")
        ax.plot(x, y, color=FIRST, linewidth=2, drawstyle="steps-pre")
        ax.set_ylim(0, max([*y, budget or 0]) * 1.15 or 1)
        ax.annotate(
            f"{y[-1]:.2f}",
            (x[-1], y[-1]),
            (-6, -26),
            textcoords="offset points",
            ha="right",
            color=FIRST,
            weight="bold",
        )
        _round_axis(ax, x)
    return svg.text


def accuracy_by_device(devices: Sequence[Mapping[str, Any]], overall: float) -> str:
    """The final int8 model on each device's own held-out examples; for a large fleet the distribution of that."""
    known = [row for row in devices if row["accuracy_int8"] is not None]
    values = [row["accuracy_int8"] for row in known]
    if len(known) > _MOST_LABELLED:
        with axes("accuracy-by-device") as (ax, svg):
            ax.hist(values, bins=20, color=FIRST, alpha=0.85, rwidth=0.9)
            ax.axvline(overall, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)
            _percent_axis(ax.xaxis)
            ax.set_ylabel("devices")
        return svg.text
    with axes("accuracy-by-device", rows=len(known)) as (ax, svg):
        rows = range(len(known))
        ax.barh(rows, values, color=FIRST, alpha=0.85, height=0.62)
        for row, value in enumerate(values):
            inside = value > 0.2
            ax.annotate(
                percent(value), (value, row), (-4 if inside else 4, 0), textcoords="offset points",
                va="center", ha="right" if inside else "left", color=CARD if inside else INK, fontsize=8.5,
            )  # fmt: skip
        ax.axvline(overall, color=SECOND, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.set_yticks(rows, [f"device {row['device']}" for row in known])
        ax.set_xlim(0, 1.02)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
        _percent_axis(ax.xaxis)
        _rows(ax, len(known))
    return svg.text


def bytes_sent(up: float, down: float, int8_file: int, float_file: int) -> str:
    """Measured bytes: of a device's messages in a round, and of the model files."""
    values = [down, up, float_file, int8_file]
    labels = ["to a device", "from a device", "float32 file", "int8 file"]
    with axes("bytes") as (ax, svg):
        rows = [0, 1, 2.4, 3.4]
        ax.barh(rows, values, color=[SECOND, FIRST, SECOND, FIRST], alpha=0.85, height=0.62)
        for row, value in zip(rows, values, strict=True):
            ax.annotate(size(value), (value, row), (4, 0), textcoords="offset points", va="center", color=INK)
        ax.set_yticks(rows, labels)
        ax.set_xlim(0, max(values) * 1.22 or 1)
        ax.xaxis.set_major_formatter(lambda value, _: size(value))
        ax.xaxis.set_major_locator(_locator(4))
        _rows(ax, 4.4)
    return svg.text


def latency(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Latency of one example: every measured one as a dot, percentiles as marks."""
    names = list(kinds)
    jitter = np.random.default_rng(0)  # moves dots apart, on the page only
    with axes("latency", height=0.75 + 0.8 * len(names)) as (ax, svg):
        for row, name in enumerate(names):
            colour, times = (FIRST, SECOND)[row % 2], kinds[name]
            samples = np.asarray(times.get("samples") or [], float)
            spread = jitter.uniform(-0.13, 0.13, len(samples))
            ax.plot(samples, row + spread, ".", color=colour, markersize=3.5, alpha=0.35, markeredgewidth=0)
            for key in _PERCENTILES:
                ax.plot([times[key]] * 2, [row - 0.2, row + 0.2], color=colour, linewidth=2)
            marks = ", ".join(f"{key} {milliseconds(times[key])}" for key in _PERCENTILES)
            ax.text(0, row - 0.36, f"{name}: {marks}", color=INK)
        ax.set_yticks([])
        most = max(times["p95"] for times in kinds.values())
        ax.set_xlim(0, most * 1.4)  # a few slow runs would squeeze everything else; p99 is told if it is not seen
        ax.set_xlabel("milliseconds")
        ax.set_ylim(len(names) - 0.6, -0.65)
    return svg.text


def partition(devices: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """Training examples of each device by class: the darker the more."""
    shown = evenly(devices, MOST_ROWS)
    counts = np.array([row["labels"] for row in shown])
    few = len(shown) <= _MOST_LABELLED
    long = max(map(len, classes)) > 3
    rows = len(shown) if few else 12
    with axes("partition", rows=rows, extra=0.6 if long else 0.1) as (ax, svg):
        _cells(ax, counts, numbers=few and len(classes) <= 12)
        labelled = range(len(shown)) if few else evenly(range(len(shown)), 10)
        ax.set_yticks(labelled, [f"device {shown[row]['device']}" for row in labelled])
        step = max(1, math.ceil(len(classes) / 24))
        rotation: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
        ax.set_xticks(range(0, len(classes), step), [_shortened(name) for name in classes[::step]], **rotation)
        ax.set_xlim(-0.5, len(classes) - 0.5)
        _rows(ax, len(shown))
        ax.grid(visible=False)
    return svg.text


def _cells(ax: "Axes", counts: NDArray[np.int64], *, numbers: bool) -> None:
    from matplotlib.patches import Rectangle

    most = max(int(counts.max()), 1)
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        alpha = 0.12 + 0.88 * math.sqrt(count / most)
        ax.add_patch(Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, facecolor=HEAT, alpha=alpha, linewidth=0))
        if numbers:
            colour = ON_HEAT if alpha > 0.75 else INK
            ax.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)


def failures(failed: Sequence[Mapping[str, Any]], rounds: int) -> str:
    """Who did not make it into which round."""
    devices = sorted({row["device"] for row in failed})[:_MOST_FAILED]
    rows = {device: row for row, device in enumerate(devices)}
    with axes("failures", rows=len(devices)) as (ax, svg):
        points = [(row["round"], rows[row["device"]]) for row in failed if row["device"] in rows]
        ax.plot(*zip(*points, strict=True), "x", color=WARNING, markersize=7, markeredgewidth=2)
        ax.set_yticks(range(len(devices)), [f"device {device}" for device in devices])
        _round_axis(ax, [0.5, rounds + 0.5])
        _rows(ax, len(devices))
    return svg.text


def survivors(rounds: Sequence[Mapping[str, Any]], threshold: int | None) -> str:
    """Of the devices asked in every round, those whose update is in its sum; a failed round has a cross."""
    x = np.array([row["round"] for row in rounds])
    asked, summed = (np.array([row[key] for row in rounds]) for key in ("clients", "survivors"))
    failed = [row["round"] for row in rounds if row.get("failed")]
    with axes("survivors") as (ax, svg):
        width = 0.72 if len(x) <= _MOST_BARS else 1.0
        ax.bar(x, asked, width, color=MUTED, alpha=0.22, linewidth=0)
        ax.bar(x, summed, width, color=FIRST, alpha=0.85, linewidth=0)
        if threshold is not None:
            ax.axhline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
            ax.annotate(str(threshold), (1, threshold), (3, -3), xycoords=("axes fraction", "data"),
                        textcoords="offset points", color=INK)  # fmt: skip
        high = float(asked.max())
        ax.plot(failed, [high * 0.06] * len(failed), "x", color=WARNING, markersize=6, markeredgewidth=2)
        ax.set_ylim(0, high * 1.06)
        ax.yaxis.set_major_locator(_locator(5, integer=True))
        ax.set_ylabel("devices")
        ax.grid(visible=False, axis="x")
        _round_axis(ax, [x[0] - 0.2, x[-1] + 0.2])
    return svg.text


def seconds_by_round(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Of every round: training, the other steps of secure aggregation, and what the server does besides."""
    x = [row["round"] for row in rounds]
    training, steps = (
        np.array([sum(s["seconds"] for s in row["stages"] if (s["name"] == "train") == is_training) for row in rounds])
        for is_training in (True, False)
    )
    rest = np.maximum(0, np.array([row["seconds"] for row in rounds]) - training - steps)
    parts = (("training", training, FIRST, 0.85), ("other steps", steps, SECOND, 0.85), ("server", rest, MUTED, 0.3))
    with axes("seconds-by-round") as (ax, svg):
        below = np.zeros(len(x))
        for name, part, colour, alpha in parts:
            width = 0.72 if len(x) <= _MOST_BARS else 1.0
            ax.bar(x, part, width, below, label=name, color=colour, alpha=alpha, linewidth=0)
            below += part
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, handlelength=1)
        ax.set_ylim(0, float(below.max()) * 1.06 or 1)
        ax.yaxis.set_major_locator(_locator(5))
        ax.set_ylabel("seconds")
        ax.grid(visible=False, axis="x")
        _round_axis(ax, [x[0] - 0.2, x[-1] + 0.2])
    return svg.text


def evenly(rows: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of `rows`, at equal distances, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def _room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(0.02, 0.25 * (high - low))
    return low - margin, high + margin


def _shortened(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "…"


def _percent_axis(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{value * 100:.4g}%")


def _locator(count: int, *, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=integer)


def _round_axis(ax: "Axes", x: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(min(x) - 0.4 if len(x) > 1 else min(x) - 1, max(x) + 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.set_xlabel("round")


def _rows(ax: "Axes", count: float) -> None:
    """Rows from the top down, without ticks."""
    ax.set_ylim(count - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
