"""What a device agrees to: its operator's configuration held against a task, whoever sent it.

Nothing that a coordinator says makes a device do more than this. What can be said before a model is built or data is
read is said here, to the offer; the rest is held against each message where it is run.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from fedmesh import plugins
from fedmesh.errors import ConfigError
from fedmesh.privacy.settings import Budget, Level

if TYPE_CHECKING:  # an agent that waits holds nothing of what only a task needs
    from fedmesh.client.task import Task
    from fedmesh.configuration.learner import Learner
    from fedmesh.secagg import Policy

__all__ = ["budgets_of", "client_apps", "floor_of", "most_steps", "refusal"]

_LITE = ("lite",)


def budgets_of(config: "Learner") -> dict[Level, Budget]:
    """The device's whole budgets, which all tasks share."""
    privacy = config.privacy
    return {
        "example": Budget("example", privacy.example_epsilon, privacy.example_delta),
        "client": Budget("client", privacy.client_epsilon, privacy.client_delta),
    }


def floor_of(config: "Learner", coordinator: str | None, *, successors: Collection[str] = ()) -> "Policy":
    """The least that a session of secure aggregation has to offer, and who may lead one.

    Args:
        config: of the operator.
        coordinator: who may; None: whoever the device is asked by, as its caller allows.
        successors: who may ask for the shares in the place of who led.
    """
    from fedmesh.secagg import Policy

    secure = config.secure_aggregation
    return Policy(
        smallest_cohort=secure.smallest_cohort,
        largest_cohort=secure.largest_cohort,
        colluders=secure.colluders,
        min_survivors=secure.min_survivors,
        aggregator=coordinator,
        successors=frozenset(successors),
    )


def client_apps(config: "Learner") -> tuple[str, ...]:
    """The client apps that the device would run; on tier ``lite`` those without torch, unless others are named."""
    if config.tier == "inference":
        return ()
    if config.clients is not None:
        return config.clients
    return _LITE if config.tier == "lite" else tuple(plugins.available(plugins.CLIENTS))


def refusal(config: "Learner", client: str, task: "Task") -> str:
    """Why the device declines a task that is to be run by `client`: one word of the protocol; empty: it does not.

    Args:
        task: as it is deployed, see `Task.as_deployed`.
    """
    from fedmesh.client.assignment import check_promises

    if client not in client_apps(config):
        return "policy" if config.tier == "inference" else "client"
    if task.head is None and task.model not in plugins.available(plugins.MODELS):  # one with a head brings its backbone
        return "client"
    if config.tasks is not None and task.name not in config.tasks:
        return "policy"
    try:
        check_promises(task)
    except ConfigError:
        return "policy"
    if config.secure_aggregation.required and not task.secure_aggregation:
        return "policy"
    return _private(config, task) or _large(config, task)


def most_steps(task: "Task", examples: int) -> int:
    """Steps of a round on so many examples."""
    if task.dp is not None:
        return task.dp.steps
    if task.summed is not None and task.summed.level == "example":
        return 1
    return task.local_epochs * -(-examples // task.batch_size)


def _private(config: "Learner", task: "Task") -> str:
    privacy, budget, settings = config.privacy, task.budget, task.summed or task.dp
    if budget is None or settings is None:
        return "policy" if privacy.required else ""
    if task.mode not in privacy.modes or settings.noise_multiplier < privacy.min_noise_multiplier:
        return "policy"
    whole = budgets_of(config)[budget.level]
    most = privacy.max_task_epsilon
    is_over = budget.delta > whole.delta or (most is not None and budget.epsilon > most)
    return "budget" if is_over else ""


def _large(config: "Learner", task: "Task") -> str:
    limits = config.limits
    size = 0 if task.summed is None else task.summed.size
    return "limits" if size > limits.max_parameters or most_steps(task, 1) > limits.max_steps else ""
