"""What the laboratory examines: a scenario's task, its public start and its devices' data."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fedmesh.client.task import Task
from fedmesh.events import EventSink, StepDone, ignore
from fedmesh.federation import datasets
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.featuring import featured
from fedmesh.federation.plan import make_task
from fedmesh.federation.preflight import check_fit, check_plugins
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.start import make_start
from fedmesh.simulation.laboratory.timing import Stopwatch
from fedmesh.types import Float32

__all__ = ["Subject", "prepare"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A federation before its first round.

    Attributes:
        scenario: what it was made from.
        task: of every device.
        weights: the public start, float32 [P].
        data: who has which examples.
    """

    scenario: Scenario
    task: Task
    weights: Float32
    data: FederatedData


def prepare(scenario: Scenario, *, data_dir: Path | None = None, events: EventSink = ignore) -> Subject:
    """Loads the data and makes the public start, as a simulation does.

    Raises:
        ConfigError: the scenario or the data do not allow it.
    """
    watch = Stopwatch()
    check_plugins(scenario)
    data = datasets.split_as(datasets.load(scenario.data.name, data_dir), scenario)
    check_fit(scenario, data)
    with TemporaryDirectory() as folder:
        data = featured(data, scenario, Path(folder))
    events(StepDone(f"data: {scenario.data.name}", watch.lap()))
    classes = len(data.classes)
    _, start = make_start(scenario, data.public, classes)
    task = make_task(scenario, start, data.public.x.shape[1:], classes)
    events(StepDone("public start", watch.lap()))
    return Subject(scenario, task, start.weights, data)
