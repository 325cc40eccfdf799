"""Which device is behind which node.

A name is only a claim: it decides whose pinned key a message is held against, and a node that lies fails there. At most
it keeps the device out whose name it took.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from fedmesh.errors import DecodeError
from fedmesh.flower.records import excerpt
from fedmesh.secagg import Roster

__all__ = ["Names", "Registry"]

Names = Callable[[Sequence[int]], Mapping[int, str]]
"""Node ids -> the names of those that are known without asking."""


class Registry:
    """Node id -> name of a device on the roster.

    Args:
        roster: the devices.
        own: name of the server itself, which no device can have.
        names: None asks the nodes (`unknown`, `learn`).
    """

    def __init__(self, roster: Roster, own: str, names: Names | None) -> None:
        self._roster = roster
        self._own = own
        self._lookup = names
        self._names: dict[int, str] = {}

    def unknown(self, nodes: Collection[int]) -> list[int]:
        """Those that have to be asked for their names, ascending."""
        missing = sorted(node for node in nodes if node not in self._names)
        if self._lookup is None:
            return missing
        for node, name in self._lookup(missing).items():
            self._names[node] = name
        return []

    def learn(self, node: int, name: str) -> None:
        """What a node says that its name is.

        Raises:
            DecodeError: no device of that name is on the roster.
        """
        if name not in self._roster or name == self._own:
            raise DecodeError(f"it says that it is {excerpt(name)[:40]!r}, a device that is not on the roster")
        self._names[node] = name

    def named(self, nodes: Collection[int]) -> dict[int, str]:
        """The nodes that can take part, ascending; of two with one name the first."""
        found: dict[str, int] = {}
        for node in sorted(nodes):
            name = self._names.get(node)
            if name is not None and name in self._roster and name != self._own:
                found.setdefault(name, node)
        return {node: name for name, node in found.items()}
