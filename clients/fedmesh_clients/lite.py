"""Devices without torch: they train the last layer of a model, on fixed features or behind a frozen int8 backbone.

Of the model ``linear_head`` that is the whole model, and examples are vectors. Of any other model that ends with a
linear layer, in a federation that plans lite devices (``client.lite_fraction``), the rest of it comes with every round
and runs in ONNX Runtime.
"""

from fedmesh.client.head_trainer import HeadTrainer
from fedmesh.client.home import Homes
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.task import Task
from fedmesh_clients.training import DataSource, TrainingApp

__all__ = ["build"]


def build(task: Task, data: DataSource, *, homes: Homes) -> TrainingApp:
    """The client app for `task`; see `TrainingApp`.

    Raises:
        ConfigError: the task plans no lite devices and is of another model than ``linear_head`` or not about vectors;
            it plans them and is one that they cannot take part in; or it is impossible.
    """
    trainer = LiteTrainer(task) if task.head is None else HeadTrainer(task)
    return TrainingApp(task, data, homes=homes, trainer=trainer, backbone=task.head is not None)
