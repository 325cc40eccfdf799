"""From a certified result to a signed version: export, comparison bit for bit, publication in the member's repository.

What a coordinator does behind each of its rounds, done by a member that has a repository. The signature under a
version is the repository's, with its own threshold of signers: a quorum of members decides what was learned, and the
owners of the repository what is installed.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fedmesh.client.task import Task
from fedmesh.federation import datasets
from fedmesh.federation.datasets.public import public_part
from fedmesh.federation.directory import PublicStart, RunDirectory
from fedmesh.federation.featuring import FILE, featured
from fedmesh.federation.judge import Judge, Verdict
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.start import restore
from fedmesh.fleet.delivering import Deliveries, open_repository
from fedmesh.fleet.plan import scenario_digest
from fedmesh.fleet.task_run import GOLDEN_EXAMPLES, Handover
from fedmesh.types import Layout

__all__ = ["Delivery", "deliver"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A result to be delivered.

    Attributes:
        run: id. round: whose result it is. survivors: inputs in its sum. epsilon: spent so far; None without DP.
        model: float32 [P], little-endian. last: whether no later one follows.
    """

    run: int
    round: int
    survivors: int
    epsilon: float | None
    model: bytes
    last: bool


def deliver(
    delivery: Delivery,
    *,
    scenario: Scenario,
    task: Task,
    layout: Layout,
    features: bytes,
    repository: Path,
    datasets_folder: Path | None = None,
) -> Verdict:
    """Signs the int8 model of a result as the next version of `repository`, which is made if there is none.

    Returns:
        Its figures on public examples.

    Raises:
        MismatchError: the export does not compute what the fake-quantized model computes.
        FedMeshError: the data set is missing, or the repository cannot be used.
    """
    with TemporaryDirectory() as made:
        folder = Path(made)
        if features:
            (folder / FILE).write_bytes(features)
        data = featured(public_part(datasets.load(scenario.data.name, datasets_folder), scenario), scenario, folder)
        weights = np.frombuffer(delivery.model, "<f4").astype(np.float32)
        model = restore(scenario, PublicStart(weights, dict(task.ranges)), data.public, len(data.classes))
        directory = RunDirectory(folder, scenario, "")
        verdict = Judge(model, layout, data, directory).int8(weights)
        Deliveries(open_repository(repository), task.name).publish(
            Handover(
                task.name,
                delivery.run,
                delivery.round,
                delivery.survivors,
                directory.int8_model,
                delivery.epsilon,
                bytes.fromhex(scenario_digest(scenario)),
                data.public.x[:GOLDEN_EXAMPLES],
                delivery.last,
            )
        )
    return verdict
