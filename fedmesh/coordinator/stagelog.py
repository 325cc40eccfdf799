"""Times and weighs the stages of a round while they happen."""

from collections.abc import Callable

from fedmesh.clock import Clock
from fedmesh.coordinator.records import StageRecord
from fedmesh.flower.grid import Traffic

__all__ = ["StageLog"]


class StageLog:
    """The stages of one round.

    Args:
        clock: for the seconds.
        traffic: what the round has carried up to now. A stage's bytes are the difference between its end and its
            begin, so a late reply to a stage counts for the one that it arrives in.
    """

    def __init__(self, clock: Clock, traffic: Callable[[], Traffic]) -> None:
        self._clock = clock
        self._traffic = traffic
        self._records: list[StageRecord] = []
        self._open: tuple[str, int, float, int, int] | None = None
        self._replies = 0

    def begin(self, name: str, devices: int) -> None:
        """Ends the stage before; `devices` messages of stage `name` are about to be sent."""
        self.end()
        self._open = (name, devices, self._clock.now(), *self._carried())
        self._replies = 0

    def heard(self) -> None:
        """An answer without an error has arrived."""
        self._replies += 1

    def end(self) -> tuple[StageRecord, ...]:
        """Ends the stage under way, if there is one: all stages so far."""
        if self._open is not None:
            name, devices, begun, up, down = self._open
            up_now, down_now = self._carried()
            seconds = self._clock.now() - begun
            self._records.append(StageRecord(name, devices, self._replies, up_now - up, down_now - down, seconds))
            self._open = None
        return tuple(self._records)

    def _carried(self) -> tuple[int, int]:
        traffic = self._traffic()
        return sum(traffic.up.values()), sum(traffic.down.values())
