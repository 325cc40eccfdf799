"""The commands, each loaded when it is asked for: an agent that runs for months holds none but its own."""

from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup
from typer.main import get_group

from fedmesh import __version__

if TYPE_CHECKING:
    from click import Command, Context

__all__ = ["app"]

_HOMES = {
    "simulate": "simulate:command",
    "infer": "infer:command",
    "scenarios": "listing:scenarios",
    "strategies": "listing:strategies",
    "clients": "listing:clients",
    "enroll": "enroll:command",
    "doctor": "doctor:command",
    "config": "config:config",
    "privacy": "privacy:privacy",
    "ledger": "ledger:ledger",
    "runs": "runs:runs",
    "model": "model:model",
    "client": "client:client",
    "peer": "peer:peer",
    "mesh": "mesh:mesh",
    "run": "run:run",
    "ca": "ca:ca",
    "broker": "broker_config:broker",
    "coordinator": "coordinator:coordinator",
}
"""Command -> module of `fedmesh.cli`, and what the command is called there."""


class _Commands(TyperGroup):
    def list_commands(self, ctx: "Context") -> list[str]:  # noqa: ARG002
        return list(_HOMES)

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":  # noqa: ARG002
        # One that is not there is looked for among all: click says which of them may have been meant.
        for name in (cmd_name,) if cmd_name in _HOMES else _HOMES:
            if name not in self.commands:
                self.add_command(_loaded(name))
        return self.commands.get(cmd_name)


def _loaded(name: str) -> "Command":
    place, _, called = _HOMES[name].partition(":")
    module = import_module(f"fedmesh.cli.{place}")
    found, around = getattr(module, called), typer.Typer(suggest_commands=False, rich_markup_mode="rich")
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name, help=getattr(module, "HELP", None))(found)
    return get_group(around).commands[name]


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    suggest_commands=False,  # click does
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federated learning of int8 models over a mesh of small devices.",
    epilog="Start with: fedmesh simulate digits",
)


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
