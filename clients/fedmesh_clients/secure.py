"""How a client app takes part in secure aggregation: its credentials from its home, its terms from its task."""

from flwr.app import Context

from fedmesh.client.home import Homes
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.flower import Credential, Terms
from fedmesh.secagg import Policy
from fedmesh.types import Layout

__all__ = ["HomeCredentials", "partition_in", "terms_of"]


class HomeCredentials:
    """The credentials of the devices in `homes`, told apart by ``partition-id``; read when needed."""

    def __init__(self, homes: Homes) -> None:
        self._homes = homes

    def __call__(self, context: Context) -> Credential:
        """The credential of the device whose Context this is.

        Raises:
            ConfigError: the Context says no partition, or there is no sound identity for it.
        """
        member = self._homes.member(partition_in(context))
        return Credential(member.name, member.identity, member.roster, member.store_path)


def partition_in(context: Context) -> int:
    """Which device a Context belongs to. Raises: ConfigError when its node says none."""
    partition = context.node_config.get("partition-id")
    if not isinstance(partition, int):
        raise ConfigError('the node\'s configuration has no "partition-id": start it with --node-config partition-id=0')
    return partition


def terms_of(task: Task, layout: Layout, *, floor: Policy | None = None) -> Terms:
    """What a device of `task` takes part in; `floor` is its local policy, the safe defaults if None."""
    return Terms(
        task.session_name,
        layout,
        bits=task.bits,
        weight_cap=task.weight_cap,
        reported=task.reported,
        privacy=task.privacy,
        summed=task.summed,
        floor=_floor(task) if floor is None else floor,
    )


def _floor(task: Task) -> Policy:
    """The safe defaults; a session may be as large as the task's groups, which its devices pay for in work."""
    usual = Policy()
    return usual if task.group_size <= usual.largest_cohort else Policy(largest_cohort=task.group_size)
