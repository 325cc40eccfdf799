"""Calls sessions of secure aggregation: groups, and an aggregator for each."""

from collections.abc import Callable, Mapping

from fedmesh.coordinator.attempt import Attempt
from fedmesh.coordinator.groups import SMALLEST_GROUP, deal
from fedmesh.coordinator.secure_settings import Belongs, SecureSettings
from fedmesh.coordinator.session import Session
from fedmesh.errors import QuorumError
from fedmesh.machine import cores
from fedmesh.secagg import Aggregator, Identity, Roster
from fedmesh.types import Layout

__all__ = ["Convener", "counter"]


class Convener:
    """Opens the sessions of a round.

    Args:
        identity: the server's; signs what it publishes.
        roster: devices and server.
        settings: of the federation.
        layout: of the model.
        attempts: round -> number of its next attempt, never the same twice, not even after a restart.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        settings: SecureSettings,
        layout: Layout,
        attempts: Callable[[int], int],
    ) -> None:
        self.settings = settings
        self._identity = identity
        self._roster = roster
        self._layout = layout
        self._attempts = attempts

    def fewest(self, quorum: int) -> int:
        """Devices below which a round is not worth beginning: for the quorum, or for the noise in a sum."""
        return max(SMALLEST_GROUP, quorum, self.settings.smallest_sum)

    def open(
        self, number: int, names: Mapping[int, str], belongs: Belongs | None, *, quorum: int, tried: int = 0
    ) -> Attempt:
        """The sessions of a new attempt at round `number` among the devices in `names` (node id -> name).

        Args:
            number: the round.
            names: at least `SMALLEST_GROUP`.
            belongs: None leaves it open until `Attempt.bind`.
            quorum: fewest inputs over all groups.
            tried: attempts before this one; another deals other groups.

        Raises:
            QuorumError: a group would be smaller than a sum has to be.
        """
        seed = self.settings.seed
        groups = deal(names, self.settings.group_size, key=None if seed is None else (seed, number, tried))
        smallest, wanted = min(map(len, groups)), self.settings.smallest_sum
        if smallest < wanted:
            raise QuorumError(
                f"{len(names)} devices are left, in groups of {smallest} and more; the noise in a sum is sized for "
                f"{wanted}: ask more devices, or plan for more drop-outs (privacy.dropouts)",
                arrived=smallest,
                wanted=wanted,
            )
        attempt = self._attempts(number)
        sessions = []
        for index, group in enumerate(groups):
            members = {node: names[node] for node in group}
            share = -(-quorum * len(group) // len(names))
            cohort = tuple(sorted(members.values()))
            header = self.settings.header(number, attempt, cohort, self._layout, belongs, fewest=share)
            aggregator = Aggregator(header, self._identity, self._roster, threads=cores())
            sessions.append(Session(index, header, aggregator, members))
        return Attempt(sessions)


def counter() -> Callable[[int], int]:
    """Attempt numbers that are forgotten with the process: for a federation without a journal."""
    given: dict[int, int] = {}

    def following(number: int) -> int:
        given[number] = given.get(number, 0) + 1
        return given[number]

    return following
