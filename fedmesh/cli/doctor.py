"""``fedmesh doctor``: whether this machine can take part, and what to do where it cannot."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmesh.cli.printing import print_json
from fedmesh.cli.simulate import DATA_HELP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmesh.cli.checks import Check

__all__ = ["command", "print_checks"]

_MARKS = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "failed": "[bold red]✗[/]"}


def command(
    data: Annotated[Path | None, typer.Option(metavar="DIR", envvar="FEDMESH_DATA", help=DATA_HELP)] = None,
    broker: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="MQTT broker to look for.")] = "localhost:1883",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine: versions, CPU, memory, write permission, data sets, broker.

    Exits with 1 when something fails that fedmesh cannot do without.
    """
    from fedmesh.cli.checks import examine

    checks = examine(Path.cwd(), data, broker)
    failed = sum(check.status == "failed" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        print_checks(checks)
    raise typer.Exit(1 if failed else 0)


def print_checks(checks: "Sequence[Check]") -> None:
    """Each check in a line, with its advice below, and whether all is well."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        advice = f"\n[dim]{escape(check.advice)}[/]" if check.advice else ""
        table.add_row(_MARKS[check.status], check.name, escape(check.detail) + advice)
    console = Console(highlight=False)
    console.print(table)
    console.print()
    failed = sum(check.status == "failed" for check in checks)
    console.print(f"[bold red]{failed} failed.[/]" if failed else "[green]Ready.[/]")
