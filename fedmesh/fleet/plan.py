"""What a coordinator is to do for one task: its scenario as it will run, and how its rounds are held."""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from fedmesh.configuration.coordinator import RoundSection, TaskSection
from fedmesh.errors import ConfigError
from fedmesh.federation.scenario import SMALLEST_COHORT, FailuresSection, Scenario

__all__ = ["Plan", "scenario_digest"]


def scenario_digest(scenario: Scenario) -> str:
    """SHA-256 over the resolved scenario, in hexadecimal: deterministic JSON of every key, the defaults among them."""
    return hashlib.sha256(json.dumps(scenario.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """A task.

    Attributes:
        name: of the task; the scenario has it as its own.
        scenario: resolved; its ``partition.clients`` are the devices that are planned for.
        devices: who is asked; empty: everybody who is enrolled.
        round: how rounds are held.
    """

    name: str
    scenario: Scenario
    devices: frozenset[str]
    round: RoundSection

    @classmethod
    def of(cls, section: TaskSection, scenario: Scenario) -> Self:
        """The plan of a configuration's ``[[task]]``, whose scenario was found to be `scenario`.

        Raises:
            ConfigError: what the task says over its scenario makes that impossible.
        """
        over: dict[str, object] = {"name": section.name or scenario.name}
        if section.rounds is not None:
            over["rounds"] = section.rounds
        planned = section.round.devices or len(section.devices)
        if planned:
            over["partition.clients"] = planned
        if section.round.quorum is not None:
            over["strategy.quorum"] = section.round.quorum
        resolved = scenario.overridden(over, source=f"the task {over['name']!r}")
        if resolved.failures != FailuresSection():
            raise ConfigError(
                f"the scenario of the task {resolved.name!r} has [failures], which a simulation makes on purpose: "
                "remove the section"
            )
        return cls(resolved.name, resolved, frozenset(section.devices), section.round)

    @property
    def digest(self) -> str:
        """`scenario_digest` of the scenario."""
        return scenario_digest(self.scenario)

    @property
    def min_devices(self) -> int:
        """A round does not begin with fewer."""
        wanted = self.round.min_devices or self.scenario.strategy.quorum
        return max(wanted, SMALLEST_COHORT) if self.scenario.secure_aggregation.enabled else wanted

    def asks(self, name: str) -> bool:
        """Whether the device of this name is asked."""
        return not self.devices or name in self.devices
