"""Which settings a part of a sweep runs with.

The last word counts: the scenario, then its tables ``[[sweep]]`` (those for all of a mode, then those for budgets from
some epsilon on), then what the command was told (``--set``), then what makes the part: mode, budget and seed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedmesh.errors import ConfigError
from fedmesh.federation.scenario import Scenario, SweepSection

__all__ = ["NO_PRIVACY", "check_free", "check_tables", "scenario_for", "settings_for"]

NO_PRIVACY = "none"
"""The mode of the runs without any noise: budget infinite, the same recipe."""

_TAKEN = ("name", "seed", "sweep", "privacy.enabled", "privacy.mode", "privacy.epsilon")
_COMMAND_LINE = frozenset({"name", "seed"})
"""Of these, the command may be told other ones: they are the same for all parts."""


def settings_for(tables: Sequence[SweepSection], mode: str, epsilon: float) -> dict[str, Any]:
    """Dotted key -> value of the tables for `mode` at the budget `epsilon`."""
    mine = [table for table in tables if table.mode == mode]
    whole = [table.set for table in mine if table.epsilon is None]
    below = [(table.epsilon, table.set) for table in mine if table.epsilon is not None and table.epsilon <= epsilon]
    nearest = max(below, key=lambda pair: pair[0], default=(0.0, {}))[1]
    return {**(whole[0] if whole else {}), **nearest}


def scenario_for(
    scenario: Scenario, mode: str, epsilon: float, seed: int, told: Mapping[str, Any] | None = None
) -> Scenario:
    """The scenario of one run; a scenario like any other, without tables of its own.

    Args:
        scenario: of the sweep, `told` already put over it.
        mode: a privacy mode, or `NO_PRIVACY`.
        epsilon: the budget; infinite for `NO_PRIVACY`.
        seed: of the run.
        told: dotted key -> value, over the tables too.

    Raises:
        ConfigError: the settings do not go together.
    """
    if mode == NO_PRIVACY:
        promise: dict[str, Any] = {"privacy.enabled": False}
    else:
        promise = {"privacy.enabled": True, "privacy.mode": mode, "privacy.epsilon": epsilon}
    settings = {**settings_for(scenario.sweep, mode, epsilon), **(told or {}), **promise, "sweep": [], "seed": seed}
    where = "without privacy" if mode == NO_PRIVACY else f"in the mode {mode} at epsilon {epsilon:g}"
    return scenario.overridden(settings, source=f"the scenario {scenario.name!r} {where}")


def check_tables(scenario: Scenario) -> None:
    """Whether every table ``[[sweep]]`` of `scenario` makes a scenario, and no two are for the same.

    Raises:
        ValueError: naming the table.
    """
    seen = set()
    for number, table in enumerate(scenario.sweep):
        place = f"sweep.{number} (mode {table.mode!r})"
        if table.mode == NO_PRIVACY and table.epsilon is not None:
            raise ValueError(f"{place}: has epsilon {table.epsilon:g}, but without privacy there is none: leave it out")
        if (table.mode, table.epsilon) in seen:
            raise ValueError(f"{place}: there is another table of this mode and epsilon: make them one")
        seen.add((table.mode, table.epsilon))
        epsilon = table.epsilon or (math.inf if table.mode == NO_PRIVACY else scenario.privacy.epsilon)
        try:
            check_free(table.set, told=False)
            scenario_for(scenario, table.mode, epsilon, scenario.seed)
        except ConfigError as error:
            raise ValueError(f"{place}: {error}") from error


def check_free(keys: Iterable[str], *, told: bool) -> None:
    """Whether `keys`, told to the command or of a table, leave alone what a sweep sets by itself.

    Raises:
        ConfigError: naming the key.
    """
    for key in keys:
        for taken in _TAKEN:
            if told and taken in _COMMAND_LINE:
                continue
            if f"{key}.".startswith(f"{taken}.") or f"{taken}.".startswith(f"{key}."):
                raise ConfigError(
                    f"{key} cannot be set for a part of a sweep, which sets {taken} by itself: "
                    "use --epsilon, --modes and --seeds, and set single keys"
                )
