"""Who this process is to Flower, and how simulated nodes are numbered.

Flower keeps the identity of "the task that runs in this process" in a process-global and refuses to build a `Message`
before it is set. This module is the only place that touches it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.supercore.task_identity import TaskIdentity

__all__ = ["FIRST_NODE_ID", "SERVER_NODE_ID", "acting_as", "adopt", "node_id_of", "partition_of"]

SERVER_NODE_ID = 1
"""Flower's SUPERLINK_NODE_ID: the sender of every instruction."""

FIRST_NODE_ID = 2
"""Node id of partition 0 in our own fleets: the first that is not the server's."""

TASK_ID = 1  # Flower's own in-process simulation uses the same dummy


def node_id_of(partition: int) -> int:
    """The node id that holds `partition` in our own fleets."""
    return partition + FIRST_NODE_ID


def partition_of(node_id: int) -> int:
    """The inverse of `node_id_of`."""
    return node_id - FIRST_NODE_ID


def adopt(run_id: int, node_id: int = SERVER_NODE_ID) -> None:
    """Makes this process `node_id` of run `run_id`: call it in every process, before the first `Message` is built."""
    TaskIdentity.task_id = TASK_ID
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


@contextmanager
def acting_as(run_id: int, node_id: int) -> Iterator[None]:
    """Within the block this process is `node_id` of `run_id`; afterwards it is again who it was."""
    # The metaclass' properties raise while nothing is set, so the fields behind them are saved.
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)  # noqa: SLF001
    adopt(run_id, node_id)
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before  # noqa: SLF001
