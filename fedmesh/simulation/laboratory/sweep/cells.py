"""The cells of a sweep: one run for each privacy mode, budget and seed. A cell is a scenario of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmesh.errors import ConfigError
from fedmesh.federation.overrides import NO_PRIVACY, check_free, scenario_for
from fedmesh.federation.scenario import Scenario

__all__ = ["MODES", "Cell", "plan_cells"]

MODES = ("local", "shared", "client", "central")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run.

    Attributes:
        mode: one of `MODES`, or `NO_PRIVACY`.
        epsilon: budget of a device; infinite without privacy.
        seed: of the run: the data's cut, the public start and the noise follow from it.
        scenario: what is run.
    """

    mode: str
    epsilon: float
    seed: int
    scenario: Scenario = field(hash=False)  # its tables of options are dicts

    @property
    def name(self) -> str:
        """Of the cell's run directory."""
        return f"{self.mode}-eps{self.epsilon:g}-seed{self.seed}"


def plan_cells(
    scenario: Scenario,
    *,
    epsilons: Sequence[float],
    modes: Sequence[str],
    seeds: int,
    told: Mapping[str, Any] | None = None,
) -> tuple[Cell, ...]:
    """All cells, seed by seed, so that a sweep that is looked at early shows every curve.

    Args:
        scenario: what is swept, `told` already put over it.
        epsilons: budgets; infinite means a run without privacy, which is one for all modes.
        modes: some of `MODES`.
        seeds: how many; they count up from the scenario's.
        told: dotted key -> value that the command was told.

    Raises:
        ConfigError: a budget or mode is none, comes twice, or makes no scenario.
    """
    check_free(told or {}, told=True)
    _check_distinct("--epsilon", [f"{epsilon:g}" for epsilon in epsilons])
    _check_distinct("--modes", modes)
    if wrong := [f"{epsilon:g}" for epsilon in epsilons if not epsilon > 0]:
        raise ConfigError(f"--epsilon {', '.join(wrong)}: a budget is above 0, or inf for no privacy")
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ConfigError(f"--modes {', '.join(unknown)}: there are {', '.join(MODES)}")
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least one is run")
    parts = [(mode, epsilon) for mode in modes for epsilon in sorted(epsilons) if math.isfinite(epsilon)]
    if math.inf in epsilons:
        parts.insert(0, (NO_PRIVACY, math.inf))
    return tuple(
        Cell(mode, epsilon, seed, scenario_for(scenario, mode, epsilon, seed, told))
        for seed in range(scenario.seed, scenario.seed + seeds)
        for mode, epsilon in parts
    )


def _check_distinct(option: str, values: Sequence[str]) -> None:
    if not values:
        raise ConfigError(f"{option} names nothing: give values with commas between them")
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ConfigError(f"{option} has {', '.join(twice)} twice: give each once")
