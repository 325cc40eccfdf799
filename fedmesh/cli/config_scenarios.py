"""Whether what a scenario names is installed: without building its model or reading its data."""

from typing import TYPE_CHECKING

from fedmesh import plugins
from fedmesh.cli.checks import Check
from fedmesh.errors import ConfigError
from fedmesh.federation import scenarios

if TYPE_CHECKING:
    from fedmesh.federation.scenario import Scenario

__all__ = ["described", "examine_scenario", "missing_plugins"]


def examine_scenario(name: str) -> list[Check]:
    """A scenario by its name or file. Raises: ConfigError: it is none."""
    scenario = scenarios.load(name)
    return [Check("scenario", "ok", described(scenario)), missing_plugins("plug-ins", scenario)]


def described(scenario: "Scenario") -> str:
    """A line about it."""
    privacy = scenario.privacy
    budget = f"epsilon {privacy.epsilon:g} ({privacy.mode})" if privacy.enabled else "no privacy"
    secure = "secure aggregation" if scenario.secure_aggregation.enabled else "no secure aggregation"
    return f"{scenario.name}: {scenario.rounds} rounds, {budget}, {secure}"


def missing_plugins(name: str, scenario: "Scenario") -> Check:
    """Whether model, client, strategy and features of `scenario` are installed; none is imported."""
    wanted = [
        (plugins.MODELS, scenario.model.name),
        (plugins.CLIENTS, scenario.client.name),
        (plugins.STRATEGIES, scenario.strategy.name),
    ]
    if scenario.features.name is not None:
        wanted.append((plugins.FEATURES, scenario.features.name))
    faults = []
    for group, wish in wanted:
        try:
            plugins.find(group, wish)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        return Check(name, "failed", "; ".join(faults), "install the package that offers it, or correct the name")
    return Check(name, "ok", ", ".join(wish for _, wish in wanted))
