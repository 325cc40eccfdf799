"""How the devices of a task are summed; the same for whoever leads a session. Loads no Flower."""

from typing import Any

from fedmesh.client.task import Task
from fedmesh.coordinator.secure_settings import SecureSettings

__all__ = ["sums_of"]


def sums_of(task: Task, **more: Any) -> SecureSettings:
    """The settings of sessions for `task`; `more`: of `SecureSettings`, what the task does not say."""
    return SecureSettings(
        task_name=task.session_name,
        bits=task.bits,
        weight_cap=task.weight_cap,
        reported=task.reported,
        privacy=task.privacy,
        summed=task.summed,
        **more,
    )
