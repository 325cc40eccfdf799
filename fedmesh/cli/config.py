"""``fedmesh config``: what a scenario or an agent would be told, and whether it can be."""

import typer

from fedmesh.cli import config_check, listing

__all__ = ["config"]

config = typer.Typer(no_args_is_help=True, help="Show and check configuration.")

config.command("show")(listing.show)
config.command("check")(config_check.command)
