"""Vectors, by the head of a model on fixed features: examples are [width], float32. A device needs no torch for it."""

from pathlib import Path

from fedmesh.client.lite import LiteTrainer
from fedmesh.client.task import Task
from fedmesh_clients.training import DataSource, TrainingApp

__all__ = ["build"]


def build(task: Task, data: DataSource, *, ledgers: Path | None = None, identities: Path | None = None) -> TrainingApp:
    """The client app for `task` over vectors of features; see `TrainingApp`.

    Raises:
        ConfigError: the task is not about vectors, is of another model than ``linear_head``, or is impossible.
    """
    return TrainingApp(task, data, ledgers=ledgers, identities=identities, trainer=LiteTrainer(task))
