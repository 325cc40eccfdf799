"""``fedmesh ca``: an authority of one's own. Who may enrol, who is enrolled, who no longer is."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.log_options import LogFormat, LogLevel, start_logging
from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.identity import Issuer
    from fedmesh.identity.register import Issued

__all__ = ["ca"]

ca = typer.Typer(no_args_is_help=True, help="The mesh's certificate authority: enrol devices, revoke them.")

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The authority's folder.")]
CaOption = Annotated[Path, typer.Option("--ca", metavar="DIR", envvar="FEDMESH_CA", help="The authority's folder.")]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Its id: a-z, 0-9, '.', '_' and '-'.")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Also if it is enrolled, or was: its certificates are revoked then.")
]
DaysOption = Annotated[int, typer.Option("--days", min=7, max=30, help="How long certificates live.")]
PassphraseOption = Annotated[
    bool,
    typer.Option("--passphrase", help="The root's key is under a passphrase: asked for, or FEDMESH_ROOT_PASSPHRASE."),
]
_IN_FOLDER = Path("ca")


@ca.command("init")
def init(
    folder: FolderArgument,
    name: Annotated[str, typer.Option(metavar="NAME", help="What the mesh is called, for good.")] = "mesh",
    passphrase: PassphraseOption = False,
) -> None:
    """Make an authority: a root to be kept offline, and an issuer that the root has signed."""
    from fedmesh.identity import create_authority, open_authority
    from fedmesh.identity.authority_folder import ROOT_KEY
    from fedmesh.identity.certificates import fingerprint

    create_authority(folder, name, time.time(), _passphrase(confirm=True) if passphrase else None)
    authority, _ = open_authority(folder)
    typer.echo(
        f"The authority of the mesh {name!r} is in {folder}.\n"
        f"Its root has the SHA-256 fingerprint {fingerprint(authority.root).hex()}.\n"
        f"Now move {folder / ROOT_KEY} to a medium of its own, and a copy to another: it is needed only to replace the "
        "issuer, and whoever has it has the mesh.\n"
        f"Then: fedmesh ca serve {folder} --listen HOST:PORT, and for each device fedmesh ca token DEVICE --ca {folder}"
    )


@ca.command("token")
def token(
    device: DeviceArgument,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it can be used: 30m, 24h, 7d.")] = "24h",
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the issuer listens, for the device to know.")
    ] = "",
    again: AgainOption = False,
    folder: CaOption = _IN_FOLDER,
) -> None:
    """Print a token with which DEVICE can be enrolled, once. Older ones for it are void."""
    from fedmesh.cli import durations
    from fedmesh.identity import open_issuer

    ttl_s = durations.seconds(ttl, least_s=60, most_s=30 * 86_400)
    if address:
        durations.address(address)
    made = open_issuer(folder).token(device, time.time(), ttl_s=ttl_s, again=again, address=address)
    typer.echo(made.text)
    typer.echo(f"For {device}, once, for {ttl}. On the device: fedmesh enroll, which asks for it.", err=True)


@ca.command("server")
def server(  # noqa: PLR0917 - options
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called: broker, coordinator.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where its keys and its certificate go: a new folder.")],
    dns: Annotated[list[str] | None, typer.Option(metavar="HOST", help="A name that it is dialled by.")] = None,
    ip: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="An address that it is dialled by.")] = None,
    days: DaysOption = 14,
    again: AgainOption = False,
    folder: CaOption = _IN_FOLDER,
) -> None:
    """Make keys and certificate of a server, in a folder as a device has one. It is renewed as a device's is."""
    from fedmesh.identity.servers import create_server

    issuer = _issuer(folder, days)
    made = create_server(issuer, name, [*(dns or ()), *(ip or ())], out, time.time(), again=again)
    typer.echo(
        f"{made.name} is in {out}: for Mosquitto, {made.tls_path.name} is certfile and keyfile, and "
        f"{made.root_path.name} is cafile."
    )


@ca.command("sign")
def sign(
    request: Annotated[Path, typer.Argument(metavar="FILE", help="What fedmesh enroll --csr wrote.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the answer goes.")],
    token: Annotated[
        str, typer.Option(metavar="TOKEN", envvar="FEDMESH_TOKEN", prompt=True, hide_input=True, help="Its token.")
    ],
    days: DaysOption = 14,
    folder: CaOption = _IN_FOLDER,
) -> None:
    """Answer a request that was carried here by hand."""
    from fedmesh.files import write_atomically
    from fedmesh.identity import Token, offline_request
    from fedmesh.identity.keyfiles import read_public
    from fedmesh.identity.requests import OFFLINE, read_reply

    issuer = _issuer(folder, days)
    asked = offline_request(read_public(request), Token.parse(token).secret)
    reply = issuer.handle(asked, None, OFFLINE, time.time())
    read_reply(reply, {"certificate", "issuer", "root", "roster", "revocations"})
    write_atomically(out, reply)
    typer.echo(f"Carry {out} back, and run fedmesh enroll --install {out.name} on the device.")


@ca.command("revoke")
def revoke(device: DeviceArgument, folder: CaOption = _IN_FOLDER) -> None:
    """Revoke the certificates and tokens of DEVICE, and strike it off the roster."""
    from fedmesh.dashboard.text import counted
    from fedmesh.identity import open_issuer

    issuer = open_issuer(folder)
    revoked = counted(issuer.revoke(device, time.time()), "certificate")
    issuer.lists(time.time())
    typer.echo(f"{device} is revoked, with {revoked}. Who asks the issuer for the lists knows it from now on.")


@ca.command("grant")
def grant(
    device: DeviceArgument,
    runs: Annotated[bool, typer.Option("--runs", help="To start runs in a mesh: fedmesh run start --mesh.")] = False,
    take_back: Annotated[bool, typer.Option("--take-back", help="It has no rights any more.")] = False,
    folder: CaOption = _IN_FOLDER,
) -> None:
    """Let DEVICE do more than take part: the roster says so, and every member goes by it."""
    from fedmesh.identity import open_issuer

    if runs == take_back:
        raise ConfigError("say which right is given: --runs; or --take-back")
    issuer = open_issuer(folder)
    issuer.grant(device, "runs", take_back=take_back)
    issuer.lists(time.time())
    typer.echo(
        f"{device} may {'do what every member may, and no more' if take_back else 'start runs'}. Who asks the issuer "
        "for the lists knows it from now on."
    )


@ca.command("list")
def list_(
    folder: CaOption = _IN_FOLDER, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List who is enrolled, revoked, or has a token that was not used yet."""
    from fedmesh.identity import open_authority
    from fedmesh.identity.certificates import fingerprint

    authority, register = open_authority(folder)
    now = time.time()
    with register.reading() as rows:
        parties, waiting, rights = rows.parties(), rows.waiting_tokens(now), rows.rights()
    issuer = authority.issuers[0]
    described = {
        "mesh": authority.mesh,
        "root": fingerprint(authority.root).hex(),
        "issuer": {"generation": issuer.serial_number, "expires": _date(issuer.not_valid_after_utc.timestamp())},
        "parties": [{**_described(item, now), "rights": sorted(rights.get(item[0].id, ()))} for item in parties],
        "tokens": [{"id": name, "expires": _date(expires)} for name, expires in waiting.items()],
    }
    if as_json:
        print_json(described)
    else:
        _print(described)


@ca.command("lists")
def lists(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where they go.")], folder: CaOption = _IN_FOLDER
) -> None:
    """Write roster.signed and revocations.signed, to be carried or published."""
    from fedmesh.files import write_atomically
    from fedmesh.identity import open_issuer

    roster, revocations = open_issuer(folder).lists(time.time())
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "roster.signed", roster)
    write_atomically(out / "revocations.signed", revocations)
    typer.echo(f"The lists are in {out}.")


@ca.command("issuer")
def issuer(
    root_key: Annotated[Path, typer.Option(metavar="FILE", help="The root's key, from where it is kept.")],
    passphrase: PassphraseOption = False,
    folder: CaOption = _IN_FOLDER,
) -> None:
    """Replace the issuer: before it expires, or when its key may be in other hands. Restart fedmesh ca serve then.

    Devices that are enrolled renew by themselves; nobody who hears of the new issuer believes the old one.
    """
    from fedmesh.identity import replace_issuer

    generation = replace_issuer(folder, root_key, time.time(), _passphrase(confirm=False) if passphrase else None)
    typer.echo(f"Issuer {generation} is in force. Take the root's key away again, and restart fedmesh ca serve.")


@ca.command("serve")
def serve(
    folder: FolderArgument,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where; port 0: any.")] = "localhost:7443",
    days: DaysOption = 14,
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
) -> None:
    """Enrol and renew devices over the network, until Ctrl-C."""
    import asyncio

    from fedmesh.cli import durations
    from fedmesh.transport.issuing import IssuerServer

    start_logging(log_format, log_level)

    async def run() -> None:
        made = IssuerServer(_issuer(folder, days), folder)
        host, port = await made.start(*durations.address(listen, any_port=True))
        typer.echo(f"The issuer of {made.issuer.authority.mesh!r} listens at {host}:{port}.")
        await made.serve()

    asyncio.run(run())


def _issuer(folder: Path, days: int) -> "Issuer":
    from fedmesh.identity import open_issuer
    from fedmesh.identity.authority_folder import ROOT_KEY

    if (folder / ROOT_KEY).exists():
        typer.echo(f"warning: {folder / ROOT_KEY} is still here: move it to a medium of its own", err=True)
    return open_issuer(folder, life_s=days * 86_400)


def _passphrase(*, confirm: bool) -> bytes:
    given = os.environ.get("FEDMESH_ROOT_PASSPHRASE")
    if given is None:
        given = typer.prompt("Passphrase of the root's key", hide_input=True, confirmation_prompt=confirm)
    if not given:
        raise ConfigError("the passphrase is empty: leave --passphrase out, or choose one")
    return given.encode()


def _described(item: "Issued", now: float) -> dict[str, Any]:
    party, newest = item
    over = newest is None or now > newest.not_after
    return {
        "id": party.id,
        "kind": "server" if party.server else "device",
        "state": "revoked" if party.revoked is not None else "expired" if over else "enrolled",
        "enrolled": _date(party.enrolled),
        "certificate_ends": None if newest is None else _date(newest.not_after),
        "serial": None if newest is None else f"{newest.serial:x}",
        "signing_key": party.signing_key.hex(),
    }


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _print(described: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    made = described["issuer"]
    console.print(f"mesh {described['mesh']}, root {described['root']}", markup=False, soft_wrap=True)
    console.print(f"issuer {made['generation']}, until {made['expires']}", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("id", "kind", "state", "certificate ends", "rights"):
        table.add_column(heading, overflow="fold")
    for row in described["parties"]:
        ends = row["certificate_ends"] or ""
        table.add_row(row["id"], row["kind"], row["state"], ends, ", ".join(row["rights"]))
    for row in described["tokens"]:
        table.add_row(row["id"], "token", "not used yet", f"(token: {row['expires']})")
    console.print(table if table.rows else "Nobody is enrolled yet: fedmesh ca token DEVICE", markup=False)
