"""What an operator asks of a run while it goes on, and what the run tells about itself.

A wish is a state, not a message: it stays until another takes its place, also over a restart of the coordinator. So a
run that was stopped does not begin again by itself.
"""

import enum
from typing import Protocol

__all__ = ["Control", "Controls", "LocalControl", "RunState", "Wish"]


class Wish(enum.StrEnum):
    """What is asked of a run; of several the one further down counts."""

    RUN = "run"
    PAUSE = "pause"
    """The round under way ends; no other begins until the wish is another."""
    STOP = "stop"
    """The round under way ends, and then the run."""
    STOP_NOW = "stop-now"
    """The round under way is abandoned: it has not happened. What devices were charged for it stays charged."""

    @property
    def stops(self) -> bool:
        """Whether the run is to end."""
        return self in {Wish.STOP, Wish.STOP_NOW}


class RunState(enum.StrEnum):
    """What a run last told about itself. Only the coordinator that runs it changes it."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


class Control(Protocol):
    """The seam between a run and its operator. Asked often: it answers at once."""

    def state(self) -> Wish:
        """What is asked of the run now."""
        ...

    def report(self, state: RunState, reason: str = "") -> None:
        """The run is in `state` from now on; `reason` says why one failed."""
        ...


class LocalControl:
    """The control of a run of this process; threads and signal handlers may share it. It forgets what is reported."""

    def __init__(self) -> None:
        self._wish = Wish.RUN

    def state(self) -> Wish:
        """The last `ask`."""
        return self._wish

    def report(self, state: RunState, reason: str = "") -> None:
        """Nobody listens."""

    def ask(self, wish: Wish) -> None:
        """From now on `wish` is asked."""
        self._wish = wish  # one store: no lock, which a signal handler could not wait for


class Controls:
    """Several controls as one: the furthest wish counts (`Wish`), reports go to all."""

    def __init__(self, *controls: Control) -> None:
        self._controls = controls

    def state(self) -> Wish:
        """The furthest wish."""
        order = list(Wish)
        return max((control.state() for control in self._controls), key=order.index, default=Wish.RUN)

    def report(self, state: RunState, reason: str = "") -> None:
        """Tells all of them."""
        for control in self._controls:
            control.report(state, reason)
