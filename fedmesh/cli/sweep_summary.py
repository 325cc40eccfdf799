"""The end of a sweep on stdout: means over seeds, what is hopeless, and where the files are."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmesh.dashboard.text import counted, number
from fedmesh.federation.overrides import NO_PRIVACY

if TYPE_CHECKING:
    from fedmesh.simulation.laboratory.sweep.means import Mean, Point
    from fedmesh.simulation.laboratory.sweep.runner import Sweep

__all__ = ["print_sweep"]

_HEADINGS = ("mode", "eps", "spent", "accuracy", "public", "gain", "to no noise")


def print_sweep(sweep: "Sweep", name: str, folder: Path) -> None:
    """Prints the means of `sweep` as a table."""
    console = Console(highlight=False)
    if sweep.points:
        console.print()
        console.print(_table(sweep.points, name))
        for line in _notes(sweep.points):
            console.print(f" {line}")
        console.print()
    for file in ("sweep.png", "sweep.csv", "sweep.json"):
        if (folder / file).is_file():
            console.print(f" {folder / file}", markup=False, soft_wrap=True)  # a path is not broken: it is copied


def _table(points: "tuple[Point, ...]", name: str) -> Table:
    seeds = max(len(point.seeds) for point in points)
    title = f" [bold]{escape(name)}[/]: int8 model on held-out examples, percent, {counted(seeds, 'seed')}"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1), collapse_padding=True)
    for heading in _HEADINGS:
        first = heading == "mode"
        width = max(map(len, heading.split()))  # in a narrow terminal words stay whole, and no figure is cut
        table.add_column(heading, justify="left" if first else "right", no_wrap=first, overflow="fold", min_width=width)
    before = None
    for point in points:
        if before is not None and point.mode != before:
            table.add_section()
        before = point.mode
        is_free = point.mode == NO_PRIVACY
        table.add_row(
            "no privacy" if is_free else point.mode,
            "inf" if is_free else f"{point.epsilon:g}",
            "-" if point.epsilon_spent is None else _spent(point.epsilon_spent),
            _share(point.accuracy_int8),
            _share(point.public_only),
            f"[yellow]{_share(point.gain, signed=True)} *[/]" if point.hopeless else _share(point.gain, signed=True),
            "" if is_free else "-" if point.gap is None else _share(point.gap, signed=True, negated=True),
        )
    return table


def _spent(epsilon: float) -> str:
    return f"{epsilon:.2f}" if epsilon >= 0.1 else f"{epsilon:.2g}"


def _share(mean: "Mean", *, signed: bool = False, negated: bool = False) -> str:
    """A mean and its standard error in percent: 97.1 ±0.2."""
    value = (-mean.mean if negated else mean.mean) * 100
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return text if mean.standard_error is None else f"{text} ±{mean.standard_error * 100:.1f}"


def _notes(points: "tuple[Point, ...]") -> list[str]:
    notes = ["[dim]public: what public data alone reaches, before the first round; gain: over that[/]"]
    most = max(len(point.seeds) for point in points)
    for point in points:
        if len(point.seeds) < most:
            where = "without privacy" if point.mode == NO_PRIVACY else f"{point.mode} at {point.epsilon:g}"
            notes.append(f"[yellow]{where}: {len(point.seeds)} of {counted(most, 'seed')} only[/]")
    several = any(point.accuracy_int8.standard_error is not None for point in points)
    if several:
        notes.append("[dim]± one standard error over seeds; gains and gaps are of the same seed[/]")
    if deltas := sorted({point.delta for point in points if point.delta is not None}):
        notes.append(f"[dim]spent: the most any device's ledger shows, at delta {', '.join(map(number, deltas))}[/]")
    if any(point.hopeless for point in points):
        by = " by two standard errors" if several else ""
        notes.append(f"[yellow]* hopeless: not above public data alone{by}[/]")
    return notes
