"""Vectors, by the head of a model on fixed features: examples are [width], float32. A device needs no torch for it."""

from fedmesh.client.home import Homes
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.task import Task
from fedmesh_clients.training import DataSource, TrainingApp

__all__ = ["build"]


def build(task: Task, data: DataSource, *, homes: Homes) -> TrainingApp:
    """The client app for `task` over vectors of features; see `TrainingApp`.

    Raises:
        ConfigError: the task is not about vectors, is of another model than ``linear_head``, or is impossible.
    """
    return TrainingApp(task, data, homes=homes, trainer=LiteTrainer(task))
