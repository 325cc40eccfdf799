"""The seam below the grid: something that carries messages to nodes and brings their replies back.

`InlineFleet` runs the nodes one after another in this process; worker processes, MQTT and the mesh are other fleets.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from flwr.app import Message

from fedmesh.errors import ConfigError, PeerError
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.identity import FIRST_NODE_ID, partition_of
from fedmesh.flower.node import ClientCallable, Node

__all__ = ["Fleet", "InlineFleet"]


class Fleet(Protocol):
    """Nodes, and a way to them.

    Every submitted message gets at most one reply: an error reply if the node failed, perhaps none if it was lost.
    Neither the submitted message nor the reply shares mutable parts with what the node saw. A fleet is used by one
    thread at a time.
    """

    @property
    def node_ids(self) -> Sequence[int]:
        """Ids of the nodes that can be reached now."""
        ...

    def submit(self, message: Message) -> None:
        """Sends `message` to ``message.metadata.dst_node_id``. Raises: PeerError when there is no such node."""
        ...

    def collect(self, timeout_s: float | None) -> list[Message]:
        """Replies that have arrived, in any order, each given out once.

        Blocks until there is at least one or `timeout_s` has passed (None: no limit; 0: does not wait). Returns at
        once, empty, when no reply is outstanding.
        """
        ...

    def abandon(self, message_ids: Collection[str]) -> None:
        """Nobody waits for replies to these any more: the nodes may be spared the work. Unknown ids are passed over."""
        ...

    def states(self) -> Mapping[int, bytes]:
        """The state of every node of this machine that holds any (`Node.state`), for the server's journal.

        A device of its own keeps its state to itself: it is a function of its data. A fleet of such devices has none.
        """
        ...

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Puts every node into the given state, nodes that are not mentioned into an empty one."""
        ...

    def close(self) -> None:
        """Stops the nodes; idempotent."""
        ...


class InlineFleet:
    """Nodes that run in this process, one message for each call of `collect`, in the order of submission.

    Messages pass through `fold` and `unfold`, so that an app sees what it would see on a device.

    Args:
        client_app: runs on every node.
        nodes: how many; node i holds partition i (`partition_of`).
    """

    def __init__(self, client_app: ClientCallable, nodes: int) -> None:
        if nodes < 1:
            raise ConfigError(f"a fleet of {nodes} nodes was asked for: it needs at least one")
        self._app = client_app
        self._nodes: dict[int, Node] = {}
        self._ids = range(FIRST_NODE_ID, FIRST_NODE_ID + nodes)
        self._queue: deque[tuple[int, Envelope]] = deque()

    @property
    def node_ids(self) -> Sequence[int]:
        """Ids of all nodes, ascending."""
        return self._ids

    def submit(self, message: Message) -> None:
        """Queues the message."""
        node_id = message.metadata.dst_node_id
        if node_id not in self._ids:
            raise PeerError(f"there is no node {node_id}: this fleet has {self._ids[0]} to {self._ids[-1]}")
        self._queue.append((node_id, fold(message)))

    def collect(self, timeout_s: float | None) -> list[Message]:  # noqa: ARG002 - a message is run whatever it takes
        """Runs the oldest message and returns its reply; empty when none is queued."""
        if not self._queue:
            return []
        node_id, envelope = self._queue.popleft()
        return [unfold(fold(self._node(node_id).handle(unfold(envelope))))]

    def abandon(self, message_ids: Collection[str]) -> None:
        """What is queued is run all the same: a device that is too late has trained, and kept what it lost."""

    def states(self) -> Mapping[int, bytes]:
        """States by node id, ascending; nodes without any are left out."""
        found = {node_id: self._nodes[node_id].state() for node_id in sorted(self._nodes)}
        return {node_id: state for node_id, state in found.items() if state}

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Forgets every node's state and takes up the given ones."""
        if strangers := sorted(set(states) - set(self._ids)):
            raise ConfigError(
                f"states of nodes {strangers} are to be restored, but the fleet has {len(self._ids)} nodes"
            )
        self._nodes.clear()
        for node_id, state in states.items():
            self._node(node_id).restore(state)

    def close(self) -> None:
        """Drops what is queued."""
        self._queue.clear()

    def _node(self, node_id: int) -> Node:
        if node_id not in self._nodes:
            config = {"partition-id": partition_of(node_id), "num-partitions": len(self._ids)}
            self._nodes[node_id] = Node(node_id, self._app, config, remember=0, explain=True)
        return self._nodes[node_id]
