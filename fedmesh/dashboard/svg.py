"""One drawing by matplotlib as an SVG that takes colours and font from the page around it.

Colours are names of CSS variables, so that one drawing serves a light and a dark page; text is text. The same drawing
gives the same bytes.
"""

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

__all__ = ["CARD", "FIRST", "GRID", "HEAT", "INK", "MUTED", "ON_HEAT", "SECOND", "WARNING", "Drawing", "axes"]

# Colours that no drawing uses, each standing for a CSS variable of the page until the SVG is written.
INK, MUTED, GRID, FIRST, SECOND, WARNING, CARD, HEAT, ON_HEAT = (f"#0{i}0{i}0{i}" for i in range(1, 10))
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    FIRST: "first",
    SECOND: "second",
    WARNING: "warning",
    CARD: "card",
    HEAT: "heat",
    ON_HEAT: "on-heat",
}

_WIDTH = 5.4
_HEIGHT = 3.0


class Drawing:
    """The SVG, once its figure is complete."""

    text = ""


@contextmanager
def axes(
    name: str, *, rows: int | None = None, height: float | None = None, extra: float = 0.0
) -> "Iterator[tuple[Axes, Drawing]]":
    """Axes to draw on, and where the SVG is when the context ends. `rows` or `height` (inches) give the height."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the report is drawn by matplotlib: pip install 'fedmesh[simulation]'") from error
    tall = height if rows is None else 0.75 + 0.27 * max(rows, 3) + extra
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, tall or _HEIGHT), layout="constrained")
        ax = figure.add_subplot()
        drawing = Drawing()
        yield ax, drawing
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing.text = _inline(buffer.getvalue(), name)


_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
}


def _inline(svg: str, name: str) -> str:
    """The <svg> element alone, with ids of its own, sized by the page, coloured by CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg class="plot" \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()
