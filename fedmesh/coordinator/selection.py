"""Whom a round asks, of those that are there when it begins: a uniform draw, over which strategies work unchanged.

A strategy sees the draw as a Grid with these nodes and no others. Late joiners need nothing: they are there.

No privacy rests on the draw: every accountant here counts a device as if it were asked in every round (q = 1), because
the one who draws is not trusted. See docs/runs.md.
"""

import secrets
from collections.abc import Iterable

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedmesh.coordinator.settings import RoundSettings

__all__ = ["Selection"]


class Selection:
    """The draw of every round.

    Args:
        settings: how many.
        seed: makes it a function of the round and the nodes; None draws from the operating system's randomness.
    """

    def __init__(self, settings: RoundSettings, *, seed: int | None = None) -> None:
        self._count = settings.asked
        self._seed = secrets.randbits(63) if seed is None else seed

    def drawn(self, number: int, node_ids: Iterable[int]) -> list[int]:
        """The nodes of round `number`, ascending; all of them when there are too few."""
        nodes = sorted(node_ids)
        if self._count is None or len(nodes) <= self._count:
            return nodes
        rng = np.random.default_rng([self._seed, number])
        return [nodes[i] for i in sorted(rng.choice(len(nodes), size=self._count, replace=False))]

    def grid(self, grid: Grid, number: int) -> Grid:
        """What the strategy of round `number` sees of `grid`."""
        return grid if self._count is None else _Drawn(grid, self, number)


class _Drawn(Grid):
    """A grid of which only the drawn nodes are told of."""

    def __init__(self, grid: Grid, selection: Selection, number: int) -> None:
        self._grid = grid
        self._selection = selection
        self._number = number

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self._selection.drawn(self._number, self._grid.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)
