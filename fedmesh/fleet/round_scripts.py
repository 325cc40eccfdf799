"""The logic of a task's rounds, among the devices that are there and on the roster when a round begins."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord

from fedmesh.coordinator import ScriptFactory, StrategyRound
from fedmesh.coordinator.selection import Selection
from fedmesh.coordinator.stage import Script
from fedmesh.federation.securing import secure_script
from fedmesh.fleet.numbering import Numbering
from fedmesh.flower.grid import FleetGrid
from fedmesh.identity import Membership
from fedmesh.secagg import Identity, Roster

if TYPE_CHECKING:
    from fedmesh.fleet.prepared import Prepared

__all__ = ["SPREAD_S", "RoundScripts"]

SPREAD_S = 5.0
"""A new roster counts so long after a round first found it: devices refuse a cohort with whom their own has not yet."""


class RoundScripts:
    """A `ScriptFactory`: sums under secure aggregation, or the strategy alone.

    Who is enrolled while the run goes on takes part once the devices have had `SPREAD_S` to hear of it. Who is revoked
    is struck off at once: nobody asks a device that is not on the roll.

    Args:
        prepared: the run. strategy, grid: of its rounds.
        membership: the coordinator's, whose roster may change at any time.
        names: node ids -> names of devices. numbering: how records name them.
        attempts: round -> number of its next attempt, durable.
        clock: monotonic.
    """

    def __init__(
        self,
        prepared: "Prepared",
        strategy: Any,
        grid: FleetGrid,
        *,
        membership: Membership,
        names: Callable[[Sequence[int]], Mapping[int, str]],
        numbering: Numbering,
        attempts: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prepared, self._strategy, self._grid = prepared, strategy, grid
        self._membership, self._names, self._numbering = membership, names, numbering
        self._attempts, self._clock = attempts, clock
        self._settings = prepared.plan.settings
        self._selection = Selection(self._settings)
        self._is_secure = prepared.plan.scenario.secure_aggregation.enabled
        self._secured: ScriptFactory | None = None
        self._newest, self._since = self._version(), -math.inf  # what a run begins with has been there for long
        self._used = self._newest

    def __call__(self, number: int, arrays: ArrayRecord) -> Script:
        """The logic of round `number`, which begins with `arrays`."""
        for name in sorted(self._names(self._grid.get_node_ids()).values()):
            self._numbering.of(name)
        return self._summing(number, arrays) if self._is_secure else self._plain(number, arrays)

    def _plain(self, number: int, arrays: ArrayRecord) -> Script:
        drawn, settings = self._selection.grid(self._grid, number), self._settings
        return StrategyRound(self._strategy, number, arrays, drawn, quorum=settings.quorum, settings=settings)

    def _summing(self, number: int, arrays: ArrayRecord) -> Script:
        if (version := self._version()) != self._newest:
            self._newest, self._since = version, self._clock()
        is_due = self._used != self._newest and self._clock() - self._since >= SPREAD_S
        if self._secured is None or is_due:
            self._secured, self._used = self._sums(), self._newest
        return self._secured(number, arrays)

    def _version(self) -> tuple[int, int]:
        roster = self._membership.roster
        return roster.issuer.serial_number, roster.header.version

    def _sums(self) -> ScriptFactory:
        prepared = self._prepared
        return secure_script(
            prepared.plan.scenario,
            prepared.task,
            self._strategy,
            self._grid,
            identity=Identity(self._membership.signing_key()),
            roster=Roster(self._membership.roster.keys),
            names=self._names,
            attempts=self._attempts,
            rounds=self._settings,
        )
