"""What a run is made of before its first round: folder, public examples, public start, task and judge; made or read.

A run that goes on is the one that its folder holds: a scenario or data set that has changed since is refused.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from fedmesh.client.task import Task
from fedmesh.coordinator.tiers import Tiered
from fedmesh.errors import ConfigError
from fedmesh.federation import datasets
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.datasets.public import public_part
from fedmesh.federation.directory import PublicStart, RunDirectory, data_digest
from fedmesh.federation.featuring import featured
from fedmesh.federation.judge import Judge
from fedmesh.federation.plan import make_task
from fedmesh.federation.preflight import check_fit, check_plugins
from fedmesh.federation.start import make_start, restore
from fedmesh.federation.tiers import Backbones
from fedmesh.fleet.plan import Plan
from fedmesh.quantization import arrays_of, head_of
from fedmesh.types import Layout

__all__ = ["ONE_AT_A_TIME", "Prepared", "prepare"]

ONE_AT_A_TIME = threading.Lock()
"""Held around whatever uses torch: while a model is traced (torch.fx) calls of every other one in the process are, and
models are initialised from the global generator. Tasks side by side would come into one another's way."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run, ready for its rounds."""

    plan: Plan
    directory: RunDirectory
    data: FederatedData
    start: PublicStart
    task: Task
    layout: Layout
    judge: Judge
    backbones: Backbones | None
    """Of lite devices; None: none may take part."""

    def tiered(self, strategy: Any, is_lite: Callable[[int], bool]) -> Any:
        """`strategy`, which sends lite devices the backbone of the round where they may take part."""
        if self.backbones is None:
            return strategy
        backbones = self.backbones

        def backbone_of(arrays: ArrayRecord) -> bytes:
            with ONE_AT_A_TIME:
                return backbones.of(arrays)

        return Tiered(strategy, is_lite=is_lite, backbone_of=backbone_of)

    @staticmethod
    def alone() -> AbstractContextManager[bool]:
        """To be held around what uses the judge, see `ONE_AT_A_TIME`."""
        return ONE_AT_A_TIME


def prepare(plan: Plan, folder: Path, *, datasets_folder: Path | None = None) -> Prepared:
    """The run of `plan` in `folder`, new or to be gone on with.

    Raises:
        ConfigError: the scenario, the data or the folder do not allow it, or the folder is another run's.
    """
    scenario = plan.scenario
    check_plugins(scenario)
    data = public_part(datasets.load(scenario.data.name, datasets_folder), scenario)
    with ONE_AT_A_TIME:
        check_fit(scenario, data, devices=scenario.partition.clients)
        directory = _directory(plan, folder, data_digest(data))
        data = featured(data, scenario, directory.path)
        classes, start = len(data.classes), directory.load_start()
        if start is None:
            model, start = make_start(scenario, data.public, classes)
            directory.save_start(start)
        else:
            model = restore(scenario, start, data.public, classes)
        layout, lite = Layout.of(arrays_of(model)), scenario.client.lite_fraction > 0
        head = head_of(model) if lite else None
    task = make_task(scenario, start, data.public.x.shape[1:], classes, head=head).as_deployed()
    backbones = Backbones(model, layout, data.public.x) if lite else None
    return Prepared(plan, directory, data, start, task, layout, Judge(model, layout, data, directory), backbones)


def _directory(plan: Plan, folder: Path, digest: str) -> RunDirectory:
    if not (folder / "run.json").exists():
        return RunDirectory.create(folder, plan.scenario, digest, ledgers=False)
    directory = RunDirectory.open(folder)
    if directory.scenario != plan.scenario:
        raise ConfigError(
            f"the task {plan.name!r} has begun in {folder} with another scenario, rounds or number of devices than it "
            "has now: put them back, or give the task another name"
        )
    directory.check_data(digest)
    return directory
