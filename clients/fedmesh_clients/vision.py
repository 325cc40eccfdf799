"""Images: examples are [channels, height, width], float32."""

import fedmesh.client.trainer  # noqa: F401 - torch: workers fork from a process that has imported this module
from fedmesh.client.home import Homes
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh_clients.training import DataSource, TrainingApp

__all__ = ["build"]


def build(task: Task, data: DataSource, *, homes: Homes) -> TrainingApp:
    """The client app for `task` over images; see `TrainingApp`.

    Raises:
        ConfigError: the task is not about images, or is impossible.
    """
    if len(task.input_shape) != 3:
        raise ConfigError(
            f"the vision client takes examples of shape [channels, height, width], not {list(task.input_shape)}: "
            "choose another [client] name"
        )
    return TrainingApp(task, data, homes=homes)
