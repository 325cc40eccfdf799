"""The laboratory's plots, as PNG files by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.types import Float32

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_areas", "draw_images", "draw_scores"]

_DPI = 150
_IN, _OUT = "#c0392b", "#2c6fbb"


def draw_images(path: Path, rows: Sequence[tuple[str, Float32]]) -> None:
    """A row of images for each name: float32 [N, C, H, W] in 0..1, all of the same N.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    count = len(rows[0][1])
    figure = _figure(1.9 + 0.75 * count, 0.95 * len(rows))
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(grid, rows, strict=True):
        for axes, image in zip(line, images, strict=True):
            shown = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
            axes.imshow(shown, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set_color("#cccccc")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    _save(figure, path)


def draw_scores(path: Path, runs: Sequence[tuple[str, NDArray[np.float64], NDArray[np.bool_]]]) -> None:
    """For each audited run, how the scores of canaries that are in differ from those that are out.

    Args:
        path: of the file.
        runs: name, scores float64 [m], coins bool [m].

    Raises:
        ConfigError: as `draw_images`.
    """
    figure = _figure(6.4, 1.7 * len(runs) + 0.4)
    for axes, (name, scores, included) in zip(figure.subplots(len(runs), 1, squeeze=False)[:, 0], runs, strict=True):
        low, high = (float(edge) for edge in np.quantile(scores, [0.001, 0.999]))
        edges = np.linspace(low, high, 51)
        if low < high:
            axes.hist(scores[~included], edges, color=_OUT, alpha=0.6, label="canary left out")
            axes.hist(scores[included], edges, color=_IN, alpha=0.6, label="canary put in")
        axes.set_title(name, fontsize=9, loc="left")
        _plain(axes)
    axes.set_xlabel("score, in units of the clip", fontsize=8)
    figure.axes[0].legend(fontsize=7, frameon=False)
    _save(figure, path)


def draw_areas(path: Path, rows: Sequence[tuple[str, Sequence[tuple[str, float, float, float]]]]) -> None:
    """Areas under ROC curves with their intervals: for each pipeline, attacks as (name, area, low, high).

    Raises:
        ConfigError: as `draw_images`.
    """
    figure = _figure(6.4, 0.7 * len(rows) + 1.2)
    axes = figure.subplots()
    for line, (_, attacks) in enumerate(rows):
        for index, (name, area, low, high) in enumerate(attacks):
            at = line + 0.2 * (index - (len(attacks) - 1) / 2)
            label = name if line == 0 else None
            colour = (_OUT, _IN)[index % 2]
            axes.errorbar(area, at, xerr=[[area - low], [high - area]], fmt="o", color=colour, capsize=3, label=label)
    axes.axvline(0.5, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("area under the ROC curve (0.5 is guessing)", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    _plain(axes)
    _save(figure, path)


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "a plot needs matplotlib, which is not installed: pip install 'fedmesh[simulation]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; choose another --out") from error
