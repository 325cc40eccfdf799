"""``fedmesh enroll``: a device's keys and certificate, and their renewal."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.identity import Membership, Token

__all__ = ["command"]


def command(  # noqa: PLR0917 - options
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The device's identity: keys and certificate.")
    ] = Path("identity"),
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", envvar="FEDMESH_TOKEN", help="What fedmesh ca token printed; - reads a line."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The issuer, if not the one that the token names.")
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Renew the certificate, if it is time.")] = False,
    now: Annotated[bool, typer.Option("--now", help="With --renew: even if it is not.")] = False,
    csr: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the request there, to be carried to fedmesh ca sign.")
    ] = None,
    install: Annotated[Path | None, typer.Option(metavar="FILE", help="Take the answer of fedmesh ca sign.")] = None,
) -> None:
    """Enrol this device: its keys are made here and stay here, and a token buys it a certificate.

    Once: fedmesh enroll, which asks for the token. From two thirds of its life on: fedmesh enroll --renew.
    """
    if (renew and (csr or install)) or (csr and install) or (now and not renew):
        raise ConfigError("--renew, --csr and --install are three different things, and --now goes with --renew")
    if renew:
        _renew(folder, server, at_once=now)
    elif install:
        _install(folder, install)
    else:
        _enrol(folder, _token(token), server, csr)


def _enrol(folder: Path, token: "Token", server: str | None, csr: Path | None) -> None:
    import asyncio

    from fedmesh.cli import durations
    from fedmesh.client.enrolling import begin_enrolment
    from fedmesh.files import write_atomically
    from fedmesh.transport.issuing import enrol

    if (folder / "tls.pem").exists():
        typer.echo(f"{folder} is enrolled already; what it has is replaced if the token allows it.", err=True)
    enrolment = begin_enrolment(folder, token)
    if csr is not None:
        write_atomically(csr, enrolment.offline())
        typer.echo(f"Carry {csr} to the authority, and there: fedmesh ca sign {csr.name} --out ANSWER")
        return
    address = server or token.address
    if not address:
        raise ConfigError("the token does not say where the issuer is: name it with --server HOST:PORT")
    membership = asyncio.run(enrol(enrolment, token, durations.address(address)))
    membership.remember_address(address)
    _tell(membership)


def _install(folder: Path, answer: Path) -> None:
    from fedmesh.identity import Enrolment
    from fedmesh.identity.keyfiles import read_public
    from fedmesh.identity.requests import MAX_REPLY_BYTES

    _tell(Enrolment(folder).finish(read_public(answer, MAX_REPLY_BYTES), time.time()))


def _renew(folder: Path, server: str | None, *, at_once: bool) -> None:
    import asyncio

    from fedmesh.cli import durations
    from fedmesh.identity import Membership
    from fedmesh.transport.issuing import renew

    membership = Membership(folder)
    address = server or membership.address
    if not address:
        raise ConfigError("it is not known where the issuer is: name it with --server HOST:PORT")
    if not at_once and not membership.due(time.time()):
        typer.echo(f"It is not time yet: the certificate ends at {membership.leaf.not_valid_after_utc:%F %T} UTC.")
        return
    asyncio.run(renew(membership, durations.address(address)))
    membership.remember_address(address)
    _tell(membership)


def _token(given: str | None) -> "Token":
    import sys

    from fedmesh.identity import Token

    if given == "-":
        given = sys.stdin.readline(2_048)
    return Token.parse(typer.prompt("Token", hide_input=True) if given is None else given)


def _tell(membership: "Membership") -> None:
    typer.echo(f"{membership.name} is enrolled until {membership.leaf.not_valid_after_utc:%F %T} UTC.")
