"""What is asked of a task: by an operator through the store of runs, and by the end of the coordinator's process."""

from fedmesh.coordinator import Control, LocalControl, RunState, Wish

__all__ = ["TaskControl"]


class TaskControl:
    """The `Control` of one task.

    What an operator stopped stays stopped when the coordinator is started again. What the end of the process cut off
    goes on then: the store is not told that it was stopped, and shows it as interrupted. Nor is it told that the run
    has finished; `finished` does that when its figures are written down too.

    Args:
        stored: of the run. local: whose wish to stop is that of the process.
    """

    def __init__(self, stored: Control, local: LocalControl) -> None:
        self._stored, self._local = stored, local

    def state(self) -> Wish:
        """The process's wish to end, else what is asked of the run."""
        return Wish.STOP_NOW if self._local.state().stops else self._stored.state()

    def report(self, state: RunState, reason: str = "") -> None:
        """See `Control.report`."""
        if state is RunState.FINISHED or (state is RunState.STOPPED and self._local.state().stops):
            return
        self._stored.report(state, reason)

    def finished(self) -> None:
        """The run is over, and everything that is known about it is written down."""
        self._stored.report(RunState.FINISHED)
