"""What has to be true before a round begins: nobody asks for a pause or an end, and enough devices are there."""

from collections.abc import Callable

from fedmesh.clock import Clock
from fedmesh.coordinator.control import Control, RunState, Wish
from fedmesh.coordinator.settings import RoundSettings
from fedmesh.errors import QuorumError
from fedmesh.events import EventSink, RunPaused, RunResumed, WaitingForDevices

__all__ = ["Gate"]

POLL_S = 0.25


class Gate:
    """Waits, and says on what.

    Args:
        control: what is asked of the run; told when it pauses and goes on.
        settings: how many devices, and how long to wait for them; None: whoever is there will do.
        present: how many are there now.
        clock: of the waits.
        events: gets RunPaused, RunResumed and WaitingForDevices, whenever something has changed.
    """

    def __init__(
        self,
        control: Control,
        settings: RoundSettings | None,
        present: Callable[[], int],
        clock: Clock,
        events: EventSink,
    ) -> None:
        self._control = control
        self._settings = settings
        self._present = present
        self._clock = clock
        self._events = events

    def wished(self, number: int) -> bool:
        """Waits out a pause; whether round `number` may begin, False: the run is to end."""
        wish = self._control.state()
        if wish is Wish.PAUSE:
            self._events(RunPaused(number - 1))
            self._control.report(RunState.PAUSED)
            while (wish := self._control.state()) is Wish.PAUSE:
                self._clock.sleep(POLL_S)
            if wish is Wish.RUN:
                self._events(RunResumed(number))
                self._control.report(RunState.RUNNING)
        return wish is Wish.RUN

    def enough(self, number: int) -> bool:
        """Waits until enough devices are there for round `number`; False: the run is to end.

        A pause is waited out here too, and is no part of the wait.

        Raises:
            QuorumError: they did not come in time.
        """
        if self._settings is None:
            return True
        wanted, waited_s, told = self._settings.min_devices, 0.0, -1
        while (present := self._present()) < wanted:
            if present != told:
                self._events(WaitingForDevices(number, present, wanted))
                told = present
            if waited_s >= self._settings.wait_s:
                raise QuorumError(
                    f"{present} devices were there after {waited_s:g} s, round {number} wants {wanted}: start more "
                    "devices, lower [round] min_devices or raise wait_s",
                    arrived=present,
                    wanted=wanted,
                )
            if not self.wished(number):
                return False
            begun = self._clock.now()
            self._clock.sleep(min(POLL_S, self._settings.wait_s - waited_s))
            waited_s += self._clock.now() - begun
        return True
