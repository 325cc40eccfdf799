"""``fedmesh config check FILE``: whether a scenario, or a coordinator's, device's or peer's file can work here."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedmesh.cli.doctor import print_checks
from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.cli.checks import Check

__all__ = ["command", "kind_of"]

Kind = Literal["scenario", "coordinator", "client", "peer"]


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A TOML file, or the name of a scenario.")],
    kind: Annotated[
        str | None,
        typer.Option(metavar="scenario|coordinator|client|peer", help="What it is, if its keys do not tell."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a configuration: its keys, and the files, folders, identity, scenarios and packages that it names.

    Nothing is contacted, written or trained. Exits with 2 when something is wrong.
    """
    from fedmesh.configuration.section import read_tables
    from fedmesh.federation import scenarios

    path = Path(file)
    if not path.is_file():
        if path.suffix == ".toml" or len(path.parts) > 1:
            raise ConfigError(f"there is no file {file}: give a TOML file, or a name of `fedmesh scenarios`")
        path = scenarios.find(file)
    tables = read_tables(path)
    found = _given(kind) if kind is not None else kind_of(tables, str(path))
    checks = _checks(found, path)
    ok = not any(check.status == "failed" for check in checks)
    if as_json:
        print_json({"file": str(path), "kind": found, "ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        print_checks(checks)
    raise typer.Exit(0 if ok else 2)


def kind_of(tables: Mapping[str, Any], source: str) -> Kind:
    """What a file is, by the most of its tables that only one kind has.

    Raises:
        ConfigError: it has none of any kind, or as many of two.
    """
    votes = {kind: len(own & tables.keys()) for kind, own in _own_keys().items()}
    best = max(votes.values())
    leaders = [kind for kind, count in votes.items() if count == best]
    if best == 0 or len(leaders) > 1:
        what = f"keys of {' and '.join(leaders)}" if best else "no key that tells what it is"
        raise ConfigError(
            f"{source} has {what}: a scenario has a name, a coordinator's file [[task]], a device's [state], a "
            "peer's [mesh]; or say --kind scenario, coordinator, client or peer"
        )
    return leaders[0]


def _own_keys() -> dict[Kind, set[str]]:
    """The keys of each kind of file that no other kind has."""
    from fedmesh.configuration import ClientConfig, CoordinatorConfig, PeerConfig
    from fedmesh.federation.scenario import Scenario

    keys: dict[Kind, set[str]] = {
        "scenario": set(Scenario.model_fields),
        "coordinator": set(CoordinatorConfig.model_fields),
        "client": set(ClientConfig.model_fields),
        "peer": set(PeerConfig.model_fields),
    }
    return {
        kind: own - set().union(*(other for name, other in keys.items() if name != kind)) for kind, own in keys.items()
    }


def _given(kind: str) -> Kind:
    for known in _own_keys():
        if kind == known:
            return known
    raise ConfigError(f"--kind is {kind!r}: wanted scenario, coordinator, client or peer")


def _checks(kind: Kind, path: Path) -> "list[Check]":
    from fedmesh.cli.checks import Check

    try:
        return _examined(kind, path)
    except ConfigError as error:
        return [Check("file", "failed", str(error))]


def _examined(kind: Kind, path: Path) -> "list[Check]":
    from fedmesh.cli.checks import Check

    what = Check("file", "ok", f"{path} is a {'device' if kind == 'client' else kind}'s configuration")
    if kind == "scenario":
        from fedmesh.cli.config_scenarios import examine_scenario

        return [Check("file", "ok", f"{path} is a scenario"), *examine_scenario(str(path))]
    from fedmesh.configuration import ClientConfig, CoordinatorConfig, PeerConfig

    if kind == "peer":
        from fedmesh.cli.config_peer import examine_peer

        return [what, *examine_peer(PeerConfig.load(path), time.time())]
    if kind == "coordinator":
        from fedmesh.cli.config_coordinator import examine_coordinator

        return [what, *examine_coordinator(CoordinatorConfig.load(path), time.time())]
    from fedmesh.cli.config_client import examine_client

    return [what, *examine_client(ClientConfig.load(path), time.time())]
