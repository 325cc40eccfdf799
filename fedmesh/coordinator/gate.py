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
        self._is_first, self._is_settled = True, False

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
        """Waits out `pause_s`, then until enough devices are there for round `number`; False: the run is to end.

        A pause that an operator asks for is waited out here too, and is no part of the wait.

        Raises:
            QuorumError: they did not come in time.
        """
        if self._settings is None:
            return True
        if not self._rested(number):
            return False
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
            waited_s += self._slept(self._settings.wait_s - waited_s)
        return self._have_settled(number)

    def _rested(self, number: int) -> bool:
        """Waits `pause_s` behind a round of this process; False: the run is to end."""
        assert self._settings is not None
        left_s, self._is_first = (0.0 if self._is_first else self._settings.pause_s), False
        while left_s > 0:
            if not self.wished(number):
                return False
            left_s -= self._slept(left_s)
        return True

    def _have_settled(self, number: int) -> bool:
        """Waits until nobody joins any more, once; False: the run is to end."""
        assert self._settings is not None
        calm_s, before = 0.0, self._present()
        while not self._is_settled and calm_s < self._settings.settle_s:
            if self._settings.planned is not None and before >= self._settings.planned:
                break
            if not self.wished(number):
                return False
            calm_s += self._slept(self._settings.settle_s - calm_s)
            if (present := self._present()) != before:
                calm_s, before = 0.0, present
        self._is_settled = True
        return True

    def _slept(self, left_s: float) -> float:
        """Sleeps for a moment, at most `left_s`; how long it was."""
        begun = self._clock.now()
        self._clock.sleep(min(POLL_S, left_s))
        return self._clock.now() - begun
