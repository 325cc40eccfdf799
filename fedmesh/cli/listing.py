"""``fedmesh scenarios``, ``strategies``, ``clients`` and ``config show``: what there is, and what it says."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh import plugins
from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["clients", "scenarios", "show", "strategies"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def scenarios(as_json: JsonOption = False) -> None:
    """List the scenarios that come with fedmesh."""
    from fedmesh.federation.scenarios import shipped

    found = [_described(name, path) for name, path in shipped().items()]
    if as_json:
        print_json(found)
        return
    table = _table("scenario", "what it is", "data", "devices", "rounds", "privacy")
    for row in found:
        table.add_row(*(str(row[key]) for key in ("name", "description", "data", "clients", "rounds", "privacy")))
    _print_table(table, empty="No scenario came with this installation; `fedmesh simulate FILE.toml` runs your own.")


def strategies(as_json: JsonOption = False) -> None:
    """List the installed strategies."""
    _plugins(plugins.STRATEGIES, "strategy", as_json=as_json)


def clients(as_json: JsonOption = False) -> None:
    """List the installed client apps."""
    _plugins(plugins.CLIENTS, "client", as_json=as_json)


def show(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO|FILE", help="A scenario's name, or a TOML file.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Any key over the scenario's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show every setting of a scenario, defaults included, as TOML."""
    from fedmesh.cli import overrides
    from fedmesh.cli.toml import dumps
    from fedmesh.federation import scenarios

    tables = scenarios.load(scenario, overrides.parse(assignments or [])).model_dump(mode="json")
    if as_json:
        print_json(tables)
    else:
        sys.stdout.write(dumps(tables))


def _described(name: str, path: Path) -> dict[str, Any]:
    from fedmesh.federation.scenario import Scenario

    try:
        scenario = Scenario.load(path)
    except ConfigError as error:  # one broken file must not hide the others
        return {"name": name, "description": str(error), "data": "", "clients": "", "rounds": "", "privacy": "broken"}
    return {
        "name": name,
        "description": scenario.description,
        "data": scenario.data.name,
        "clients": scenario.partition.clients,
        "rounds": scenario.rounds,
        "privacy": f"epsilon {scenario.privacy.epsilon:g}" if scenario.privacy.enabled else "none",
    }


def _plugins(group: str, kind: str, *, as_json: bool) -> None:
    rows = [
        {
            "name": name,
            "object": point.value,
            "package": f"{point.dist.name} {point.dist.version}" if point.dist else "",
        }
        for name, point in plugins.available(group).items()
    ]
    if as_json:
        print_json(rows)
        return
    table = _table(kind, "object", "package")
    for row in rows:
        table.add_row(*row.values())
    _print_table(table, empty=f"No {kind} is installed: a package offers one by an entry point of the group {group}.")


def _table(*headings: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0, style="bold" if number == 0 else None, overflow="fold")
    return table


def _print_table(table: "Table", *, empty: str) -> None:
    from rich.console import Console

    Console(highlight=False).print(table if table.rows else empty, markup=False)
