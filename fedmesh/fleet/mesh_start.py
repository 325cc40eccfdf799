"""From a scenario to what a run without a coordinator begins with: kit, public start, state of the strategy.

Whoever starts a run trains the public start, as a coordinator would; members believe it for the charter's signature.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmesh.client.averaging import AveragingTerms
from fedmesh.coordinator.groups import SMALLEST_GROUP
from fedmesh.coordinator.snapshot import snapshot
from fedmesh.errors import ConfigError
from fedmesh.federation import datasets
from fedmesh.federation.averaging import is_averaging
from fedmesh.federation.datasets.public import public_part
from fedmesh.federation.featuring import FILE, featured
from fedmesh.federation.plan import make_strategy, make_task, smallest_sum
from fedmesh.federation.preflight import check_fit, check_plugins
from fedmesh.federation.scenario import FailuresSection, Scenario
from fedmesh.federation.start import make_start
from fedmesh.fleet.kit import Kit
from fedmesh.mesh.rounds.charter import Kind
from fedmesh.quantization import arrays_of
from fedmesh.types import Layout
from fedmesh.wire import dumps

__all__ = ["Begun", "begin"]


@dataclass(frozen=True, slots=True)
class Begun:
    """What round 1 begins with.

    Attributes:
        task: its name. kit: `Kit.to_bytes`. model: float32 [P], little-endian. state: of the strategy.
        rounds: of the run. fewest: inputs that a sum takes, at least; of gossip averaging, the smallest group.
        kind: as in a `Charter`.
    """

    task: str
    kit: bytes
    model: bytes
    state: bytes
    rounds: int
    fewest: int
    kind: Kind = "rounds"


def begin(scenario: Scenario, *, run: int, members: int, folder: Path, datasets_folder: Path | None = None) -> Begun:
    """A run of `scenario` among so many members.

    Args:
        scenario: as it is resolved. run: its id. members: of the charter.
        folder: for files on the way; empty.
        datasets_folder: where public data sets lie.

    Raises:
        ConfigError: the scenario cannot be run without a coordinator, or not among so few; its data are missing.
    """
    scenario = scenario.overridden(
        {"partition.clients": members, "strategy.fraction": 1.0, "client.lite_fraction": 0.0},
        source="a run of the mesh",
    )
    _check(scenario)
    check_plugins(scenario)
    data = public_part(datasets.load(scenario.data.name, datasets_folder), scenario)
    in_groups = is_averaging(scenario)
    check_fit(scenario, data, devices=members, in_groups=in_groups)
    data = featured(data, scenario, folder)
    model, start = make_start(scenario, data.public, len(data.classes))
    task = make_task(scenario, start, data.public.x.shape[1:], len(data.classes)).as_deployed().of_run(run)
    layout = Layout.of(arrays_of(model))
    strategy = make_strategy(scenario, layout, task, in_groups=in_groups)
    if in_groups:
        scenario = scenario.overridden({"strategy.options": strategy.options(start.weights)}, source="its strategy")
    features = (folder / FILE).read_bytes() if scenario.features.name else b""
    kit = Kit(scenario.client.name, scenario.model_dump(mode="json"), dumps(task.to_plain()), features, layout)
    fewest = max(SMALLEST_GROUP, scenario.strategy.quorum, smallest_sum(scenario))
    weights = np.ascontiguousarray(start.weights, "<f4").tobytes()
    if in_groups:
        terms = AveragingTerms.of(scenario.strategy.options)
        terms.start(start.weights)
        return Begun(task.name, kit.to_bytes(), weights, weights, scenario.rounds, terms.group, "gossip")
    return Begun(task.name, kit.to_bytes(), weights, snapshot(strategy), scenario.rounds, fewest)


def _check(scenario: Scenario) -> None:
    if not scenario.secure_aggregation.enabled:
        raise ConfigError(
            "in a mesh whoever coordinates a round is a member like any other: secure_aggregation.enabled has to be on"
        )
    if scenario.privacy.enabled and scenario.privacy.mode == "central":
        raise ConfigError("privacy.mode is 'central', which trusts a server with the noise; a mesh has none")
    if scenario.client.name == "lite":
        raise ConfigError("lite devices want a coordinator that sends them features: choose another client.name")
    if scenario.failures != FailuresSection():
        raise ConfigError("the scenario has [failures], which a simulation makes on purpose: remove the section")
