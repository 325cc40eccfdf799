"""Whether a coordinator's file can work here: identity, folders, journal, and each task against its scenario."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedmesh.cli.checks import Check
from fedmesh.cli.config_places import examine_folder, examine_identity, examine_metrics
from fedmesh.cli.config_scenarios import described, missing_plugins
from fedmesh.errors import ConfigError
from fedmesh.federation import scenarios

if TYPE_CHECKING:
    from fedmesh.configuration import CoordinatorConfig
    from fedmesh.configuration.coordinator import TaskSection
    from fedmesh.federation.scenario import Scenario
    from fedmesh.identity import Membership

__all__ = ["examine_coordinator"]


def examine_coordinator(config: "CoordinatorConfig", clock: float) -> list[Check]:
    """All that can be known without the network."""
    membership, identity = examine_identity(config.identity.folder, clock)
    checks = [identity, examine_folder("data", config.data.folder), _journal(config.journal_url)]
    if config.data.datasets is not None and not config.data.datasets.is_dir():
        checks.append(Check("data sets", "failed", f"{config.data.datasets} is not a folder", "see docs/data.md"))
    if config.registry.enabled:
        checks.append(examine_folder("registry", config.registry_folder))
    checks.append(examine_metrics(config.metrics))
    taken: dict[str, int] = {}
    for number, task in enumerate(config.task):
        checks += _task(f"task.{number}", task, membership, taken)
    return checks + _delivered(config, list(taken))


def _delivered(config: "CoordinatorConfig", tasks: list[str]) -> list[Check]:
    """Whose models become signed versions, where that is not a matter of course."""
    named, listed = config.registry.task, ", ".join(tasks)
    if not config.registry.enabled or (named is None and len(config.task) == 1):
        return []
    if named is None:
        return [Check("models", "note", "of several tasks none are delivered", "name one as [registry] task")]
    if tasks and named not in tasks:
        return [Check("models", "failed", f"[registry] task is {named!r}", f"it has to be one of {listed}")]
    return [Check("models", "ok", f"those of {named} are delivered")]


def _journal(url: str) -> Check:
    """Whether its folder can be written to, or its driver is installed. A URL may hold a password: it is not shown."""
    scheme, _, rest = url.partition("://")
    if scheme.startswith("sqlite"):
        file = Path(rest[1:].partition("?")[0])
        return (
            Check("journal", "note", "in memory", "it is gone with the process")
            if str(file) == ":memory:"
            else (examine_folder("journal", file.parent))
        )
    driver = scheme.partition("+")[2] or "psycopg"
    if find_spec(driver) is None:
        return Check("journal", "failed", f"{scheme}, whose driver {driver} is not installed", f"pip install {driver}")
    return Check("journal", "ok", f"{scheme}; whether it answers shows when the coordinator starts")


def _task(place: str, task: "TaskSection", membership: "Membership | None", taken: dict[str, int]) -> list[Check]:
    try:
        scenario = scenarios.load(task.scenario)
    except ConfigError as error:
        return [Check(place, "failed", str(error))]
    name = task.name or scenario.name
    taken[name] = taken.get(name, 0) + 1
    faults = _faults(task, scenario)
    if taken[name] > 1:
        faults.append(f"another task is called {name!r} already: give it a name of its own")
    if membership is not None:
        strangers = sorted(set(task.devices) - membership.roster.keys.keys())
        if strangers:
            faults.append(f"not on the roster: {', '.join(strangers)} (enrol them, or fetch a newer roster)")
    rounds = f", {task.rounds} rounds here" if task.rounds is not None else ""
    status = Check(place, "failed", "; ".join(faults)) if faults else Check(place, "ok", described(scenario) + rounds)
    return [status, missing_plugins(f"{place} plug-ins", scenario)]


def _faults(task: "TaskSection", scenario: "Scenario") -> list[str]:
    """What of the task does not go with its scenario."""
    from fedmesh.fleet.plan import Plan

    try:
        Plan.of(task, scenario)
    except ConfigError as error:
        return [str(error)]
    return []
