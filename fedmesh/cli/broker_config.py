"""``fedmesh broker config``: a hardened mosquitto.conf and its access rules."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["broker"]

broker = typer.Typer(no_args_is_help=True, help="The MQTT broker of a fleet.")


@broker.callback()
def _root() -> None:
    pass


@broker.command("config")
def config(  # noqa: PLR0917 - the options of a command line
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where mosquitto.conf, acl and the data go.")],
    name: Annotated[str, typer.Option(metavar="HOST", help="By which clients connect, as in the certificate.")],
    ca: Annotated[Path, typer.Option(metavar="FILE", help="The fleet's CA, in PEM.")],
    cert: Annotated[Path, typer.Option(metavar="FILE", help="The broker's certificate.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Its key.")],
    port: Annotated[int, typer.Option(metavar="PORT", help="To listen at.")] = 8883,
    address: Annotated[str, typer.Option(metavar="IP", help="To listen at; all if not given.")] = "",
    coordinator: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A coordinator's certificate name; may be repeated.")
    ] = None,
    crl: Annotated[Path | None, typer.Option(metavar="FILE", help="A revocation list, in PEM.")] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="What Mosquitto becomes when root starts it [mosquitto].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that were changed by hand.")] = False,
) -> None:
    """Write a hardened mosquitto.conf: mutual TLS 1.3, names from certificates, a topic tree for each device."""
    from fedmesh.transport.broker import BrokerSettings, write_broker_files

    settings = BrokerSettings(
        name=name,
        ca=ca.absolute(),
        certificate=cert.absolute(),
        key=key.absolute(),
        revoked=None if crl is None else crl.absolute(),
        port=port,
        address=address,
        coordinators=tuple(coordinator or ["coordinator"]),
        user=user,
    )
    path = write_broker_files(folder, settings, force=force)
    typer.echo(f"{path} and {path.parent / 'acl'} are written.")
    typer.echo(f"Start the broker: mosquitto -c {shlex.quote(str(path))}")
    typer.echo(f"Clients connect to {name}:{port}, with certificates of {ca}.")
