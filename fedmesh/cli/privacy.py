"""``fedmesh privacy``: budgets, and what they cost."""

import typer

from fedmesh.cli import audit, budget, sweep
from fedmesh.cli.attack import attack

__all__ = ["privacy"]

privacy = typer.Typer(no_args_is_help=True, help="Privacy budgets, and what they cost.")

privacy.command("epsilon", help=budget.EPSILON_HELP)(budget.epsilon)
privacy.command("noise", help=budget.NOISE_HELP)(budget.noise)
privacy.command("sweep", help=sweep.HELP)(sweep.command)
privacy.command("audit", help=audit.HELP)(audit.command)
privacy.add_typer(attack, name="attack")
