"""One run that is audited: everything that the mechanism and the auditor need to know."""

from collections.abc import Callable
from dataclasses import dataclass

from fedmesh.client.task import Task
from fedmesh.privacy.noise import NoiseSource
from fedmesh.simulation.laboratory.broken import Fault
from fedmesh.simulation.laboratory.canaries import Canaries
from fedmesh.simulation.laboratory.subject import Subject

__all__ = ["Rehearsal"]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A run of a federation with canaries in it.

    Attributes:
        subject: the federation; its task is what is promised.
        task: what is carried out.
        canaries: on its devices.
        fault: says how often a canary counts.
        rounds: how many.
        noise: labels, such as round and device -> what that release is perturbed with.
    """

    subject: Subject
    task: Task
    canaries: Canaries
    fault: Fault
    rounds: int
    noise: Callable[..., NoiseSource]
