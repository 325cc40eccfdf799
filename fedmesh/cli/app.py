"""The commands. Nothing here imports more than typer, so that `--help` answers at once."""

from typing import Annotated

import typer

from fedmesh import __version__
from fedmesh.cli import config_check, doctor, enroll, infer, listing, simulate
from fedmesh.cli.broker_config import broker
from fedmesh.cli.ca import ca
from fedmesh.cli.client import client
from fedmesh.cli.coordinator import coordinator
from fedmesh.cli.ledger import ledger
from fedmesh.cli.model import model
from fedmesh.cli.privacy import privacy
from fedmesh.cli.runs import runs

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    suggest_commands=False,  # click does
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federated learning of int8 models over a mesh of small devices.",
    epilog="Start with: fedmesh simulate digits",
)
config = typer.Typer(no_args_is_help=True, help="Show and check configuration.")

app.command("simulate", help=simulate.HELP)(simulate.command)
app.command("infer")(infer.command)
app.command("scenarios")(listing.scenarios)
app.command("strategies")(listing.strategies)
app.command("clients")(listing.clients)
app.add_typer(config, name="config")
config.command("show")(listing.show)
config.command("check")(config_check.command)
app.add_typer(privacy, name="privacy")
app.add_typer(ledger, name="ledger")
app.add_typer(runs, name="runs")
app.add_typer(model, name="model")
app.add_typer(client, name="client")
app.add_typer(ca, name="ca")
app.command("enroll")(enroll.command)
app.add_typer(broker, name="broker")
app.add_typer(coordinator, name="coordinator")
app.command("doctor")(doctor.command)


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedmesh {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
