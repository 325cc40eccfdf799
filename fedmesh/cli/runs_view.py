"""Runs on a terminal."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from fedmesh.dashboard.text import percent, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmesh.coordinator.runstore import RunInfo

__all__ = ["print_list", "print_one"]

_MOST_ROUNDS = 24
"""Of a longer run the first and the last are shown; --json has all."""
_MOST_FAILURES = 8


def print_list(found: "Sequence[RunInfo]", now: float) -> None:
    """Prints a line for each run."""
    console = Console(highlight=False, markup=False)
    if not found:
        console.print("There are no runs yet: fedmesh coordinator run CONFIG")
        return
    table = _table("run", "name", "state", "round", "last change", "host", words={"run", "name", "state", "host"})
    for info in found:
        progress = f"{max(info.committed, 0)}/{info.rounds}"
        row = (plain(info.name), info.condition, progress, _ago(now - info.updated), plain(info.host))
        table.add_row(info.key[:8], *row)
    console.print(table)


def print_one(info: "RunInfo", described: dict[str, Any], now: float) -> None:
    """Prints one run; `described` is its result."""
    console = Console(highlight=False, markup=False)
    console.print(_facts(info, described, now))
    if described["rounds"]:
        console.print(_rounds(described["rounds"]))
    failures = described["failures"]
    for failure in failures[-_MOST_FAILURES:]:
        said = f"round {failure['round']}: device {failure['device']}: {failure['reason']}"
        console.print(plain(said), soft_wrap=True)
    if len(failures) > _MOST_FAILURES:
        console.print(f"… and {len(failures) - _MOST_FAILURES} failures before: see --json")


def plain(text: str) -> str:
    """Without what a terminal would act on: reasons come from devices."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _facts(info: "RunInfo", described: dict[str, Any], now: float) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", f"{info.key} {plain(info.name)}")
    state = info.condition if not info.reason else f"{info.condition}: {plain(info.reason)}"
    table.add_row("state", f"{state}, {_ago(now - info.updated)}")
    if info.wish.value != "run":
        table.add_row("asked", info.wish.value)
    table.add_row("rounds", f"{max(info.committed, 0)} of {info.rounds}")
    if info.host:
        table.add_row("host", plain(info.host))
    start, final = described["start"], described["final"]
    begun, now_at = percent(start["accuracy_int8"]), percent(final["accuracy_int8"])
    table.add_row("accuracy", f"{begun} at the start, now {now_at}")
    privacy = described["privacy"]
    if privacy.get("enabled"):
        budget = f"budget {privacy['epsilon']:g} at delta {privacy['delta']:g}, {privacy['level']} level"
        table.add_row("epsilon", f"{_figure(final['epsilon'])} ({budget})")
    return table


def _rounds(rounds: "Sequence[dict[str, Any]]") -> Table:
    table = _table("round", "asked", "in the sum", "accuracy", "loss", "epsilon", "time", "failed", words={"failed"})
    hidden = max(0, len(rounds) - _MOST_ROUNDS)
    half = _MOST_ROUNDS // 2
    for number, one in enumerate(rounds):
        if hidden and number == half:
            table.add_row("…", f"{hidden} more: see --json", *[""] * 6)
        if hidden and half <= number < len(rounds) - half:
            continue
        figures = (percent(one["accuracy_int8"]), _figure(one["loss"]), _figure(one["epsilon"]))
        counts = (str(one["round"]), str(one["clients"]), str(one["survivors"]))
        table.add_row(*counts, *figures, seconds(one["seconds"]), plain(one["failed"] or ""))
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _ago(passed_s: float) -> str:
    """5 s ago, 3 min ago, 2 h ago, 4 d ago."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed_s >= length:
            return f"{passed_s // length:.0f} {unit} ago"
    return f"{max(0.0, passed_s):.0f} s ago"


def _table(*headings: str, words: set[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", overflow="fold")
    return table
