"""Who this process is to Flower, and how simulated nodes are numbered.

Flower keeps the identity of "the task that runs in this process" in a process-global and refuses to build a `Message`
before it is set. This module is the only place that touches it: over the process's identity it lays one of the thread
or asyncio task (`acting_as`), so that several runs can be side by side. The process's own is the last run's that was
adopted; a grid stamps its own run on what it sends, whoever that is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

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
    """Within the block this thread is `node_id` of `run_id`, others are who they were; afterwards it is again too."""
    token = _ACTING.set(_Role(run_id, node_id))
    try:
        yield
    finally:
        _ACTING.reset(token)


class _Role(NamedTuple):
    run_id: int
    node_id: int


_ACTING: ContextVar[_Role | None] = ContextVar("acting", default=None)


class _Layered(type(TaskIdentity)):  # type: ignore[misc]  # Flower's metaclass has no public name
    """Flower's identity, with that of the context over it."""

    @property
    def task_id(cls) -> int:
        return TASK_ID if _ACTING.get() is not None else int(super().task_id)

    @task_id.setter
    def task_id(cls, value: int) -> None:
        cls._task_id = value

    @property
    def run_id(cls) -> int:
        role = _ACTING.get()
        return role.run_id if role is not None else int(super().run_id)

    @run_id.setter
    def run_id(cls, value: int) -> None:
        cls._run_id = value

    @property
    def node_id(cls) -> int:
        role = _ACTING.get()
        return role.node_id if role is not None else int(super().node_id)

    @node_id.setter
    def node_id(cls, value: int) -> None:
        cls._node_id = value


# Flower reads the identity as attributes of the class, wherever it builds a message: the class is what has to know.
TaskIdentity.__class__ = _Layered  # type: ignore[method-assign]  # mypy takes it for the property __class__
