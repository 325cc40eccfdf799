"""What a coordinator is to do for one task: its scenario as it will run, and how its rounds are held."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fedmesh.configuration.coordinator import RoundSection, TaskSection
from fedmesh.coordinator.settings import RoundSettings
from fedmesh.errors import ConfigError
from fedmesh.federation.plan import smallest_sum
from fedmesh.federation.scenario import SMALLEST_COHORT, FailuresSection, Scenario

__all__ = ["Plan", "digest_of", "scenario_digest"]

_SETTLE_S = 1.0


def scenario_digest(scenario: Scenario) -> str:
    """SHA-256 over the resolved scenario, in hexadecimal: deterministic JSON of every key, the defaults among them."""
    return digest_of(scenario.model_dump(mode="json"))


def digest_of(plain: Mapping[str, Any]) -> str:
    """`scenario_digest` of a scenario that is plain data."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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
        if section.lite_fraction is not None:
            over["client.lite_fraction"] = section.lite_fraction
        if section.round.asked is not None:  # in place of the scenario's share of those that are there
            over["strategy.fraction"] = 1.0
        planned = section.round.asked or len(section.devices)
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
        plan = cls(resolved.name, resolved, frozenset(section.devices), section.round)
        plan.check()
        return plan

    @property
    def digest(self) -> str:
        """`scenario_digest` of the scenario."""
        return scenario_digest(self.scenario)

    @property
    def min_devices(self) -> int:
        """A round does not begin with fewer."""
        if self.round.min_devices is not None:
            return self.round.min_devices
        return max(self.scenario.strategy.quorum, self._fewest)

    @property
    def settings(self) -> RoundSettings:
        """How the coordinator holds the rounds. Raises: ConfigError: they could never come to an end."""
        section = self.round
        return RoundSettings(
            wanted=section.wanted,
            over_selection=section.over_selection,
            deadline_s=section.deadline_s,
            train_deadline_s=section.train_deadline_s,
            quorum=self.scenario.strategy.quorum,
            min_devices=self.min_devices,
            wait_s=section.wait_s,
            pause_s=section.pause_s,
            settle_s=_SETTLE_S,
            planned=self.scenario.partition.clients,
        )

    def check(self) -> None:
        """Raises: ConfigError: rounds of these settings cannot come to a model."""
        settings, scenario = self.settings, self.scenario
        if (too_few := scenario.too_few_for_a_sum(scenario.partition.clients)) is not None:
            raise ConfigError(too_few)
        if scenario.secure_aggregation.enabled:
            size = scenario.secure_aggregation.group_size
            settings.check_secure(group_size=size, smallest_sum=smallest_sum(scenario))

    @property
    def _fewest(self) -> int:
        if not self.scenario.secure_aggregation.enabled:
            return 1
        return max(SMALLEST_COHORT, smallest_sum(self.scenario))

    def asks(self, name: str) -> bool:
        """Whether the device of this name is asked."""
        return not self.devices or name in self.devices
