"""Ledgers on a terminal."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from fedmesh.dashboard.text import counted, number
from fedmesh.privacy.entries import Settlement, TaskBudget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import JustifyMethod

    from fedmesh.cli.ledger import Finding
    from fedmesh.privacy.statement import Account, Row

__all__ = ["print_all", "print_one", "print_verdicts"]

_MOST_ROWS = 24
"""A longer ledger is shown by its first and last entries; --json has all."""

_SHORT = {"noise_multiplier": "z", "sample_rate": "q", "variance": "var"}
_WORDS = {"device", "level", "task", "what", "cost", "anchor"}


def print_one(item: "Finding") -> None:
    """Prints one ledger: what it promises, what is left, its tasks and its entries."""
    console = Console(highlight=False, markup=False)
    console.print(_facts(item))
    assert item.statement is not None
    tasks, rows = item.statement.tasks(), item.statement.rows()
    if tasks:
        console.print(_tasks(tasks))
    if rows:
        console.print(_entries(rows))


def print_all(found: "Sequence[Finding]") -> None:
    """Prints a line for each ledger."""
    table = _table("device", "level", "charges", "budget", "delta", "spent", "left", "anchor")
    for item in found:
        if item.statement is None:
            table.add_row(_plain(item.device), "damaged", "", "", "", "", "", "see verify")
            continue
        opening, whole = item.statement.opening, item.statement.whole()
        row = (opening.level, str(whole.charges), number(opening.epsilon), number(opening.delta))
        held = "holds" if item.anchor else "none"
        anchored = "see verify" if item.error else held
        table.add_row(_plain(item.device), *row, _figure(whole.reported), _figure(whole.left), anchored)
    Console(highlight=False, markup=False).print(table)


def print_verdicts(found: "Sequence[Finding]") -> None:
    """Prints whether each ledger is whole, or what is wrong."""
    console = Console(highlight=False, soft_wrap=True)
    for item in found:
        if item.error:
            console.print("[bold red]✗[/]", end=" ")
            console.print(_plain(f"{item.path}: {item.error}"), markup=False)
            continue
        assert item.statement is not None
        torn = ", a last one was interrupted and never charged" if item.statement.torn_bytes else ""
        console.print("[green]✓[/]", end=" ")
        verdict = f"{item.path}: {_count(item.statement.entries)}{torn}; {_anchored(item)}"
        console.print(_plain(verdict), markup=False)


def _facts(item: "Finding") -> Table:
    statement = item.statement
    assert statement is not None
    opening, whole = statement.opening, statement.whole()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("ledger", _plain(str(item.path)))
    table.add_row(
        "promise", f"epsilon {number(opening.epsilon)} at delta {number(opening.delta)}, {opening.level} level"
    )
    table.add_row("spent", _spent(whole))
    table.add_row("left", _figure(whole.left))
    table.add_row("entries", f"{_count(statement.entries)}, {counted(whole.charges, 'charge')}, {opening.format}")
    table.add_row("anchor", _plain(_anchored(item)))
    if item.damage:
        table.add_row("damage", _plain(item.damage))
    if statement.torn_bytes:
        table.add_row("interrupted", f"{statement.torn_bytes} bytes of a last entry, never charged")
    return table


def _tasks(tasks: "Sequence[Account]") -> Table:
    table = _table("task", "charges", "budget", "delta", "spent", "left")
    for task in tasks:
        budget = "-" if task.budget is None else number(task.budget)
        row = (str(task.charges), budget, number(task.delta), _figure(task.reported), _figure(task.left))
        table.add_row(_plain(task.name) or "(none)", *row)
    return table


def _entries(rows: "Sequence[Row]") -> Table:
    table = _table("entry", "what", "cost", "spent after")
    half = _MOST_ROWS // 2
    hidden = max(0, len(rows) - _MOST_ROWS)
    for row in rows[:half] if hidden else rows:
        table.add_row(*_words(row))
    if hidden:
        table.add_row("…", f"{hidden} more: see --json", "", "")
        for row in rows[-half:]:
            table.add_row(*_words(row))
    return table


def _plain(text: str) -> str:
    """Without what a terminal would act on: whoever wrote the file may have written that."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _words(row: "Row") -> tuple[str, str, str, str]:
    if isinstance(row.entry, TaskBudget):
        what = f"budget of {row.entry.name}"
        cost = f"epsilon {number(row.entry.epsilon)} at delta {number(row.entry.delta)}"
    else:
        event = row.entry.event
        what = f"settles entry {row.entry.entry}" if isinstance(row.entry, Settlement) else event.label or "(no label)"
        values = ", ".join(f"{_SHORT.get(name, name)} {value:.4g}" for name, value in event.parameters.items())
        cost = f"{event.count} x {event.mechanism}: {values}"
    return str(row.number), _plain(what), _plain(cost), _figure(row.spent)


def _anchored(item: "Finding") -> str:
    if item.anchor is None:
        return "no anchor: a ledger whose end was cut off, or that was replaced, does not show"
    return item.rollback or f"contains what {item.anchor.name} remembers"


def _spent(account: "Account") -> str:
    if account.rdp is None:
        return "unknown: it has events that this version cannot account for"
    by_pld = "" if account.pld is None else f", by PLD {account.pld:.4g}"
    return f"{_figure(account.reported)} (by RDP, which the budget counts, {account.rdp:.4g}{by_pld})"


def _count(entries: int) -> str:
    return f"{entries} entry" if entries == 1 else f"{entries} entries"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return number(value) if 0 < value < 1e-3 else f"{value:.4g}"


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in headings:
        justify: JustifyMethod = "left" if heading in _WORDS else "right"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading == "device")
    return table
