"""The control of a run whose journal is in the store of runs: wishes are polled, states are written down."""

import logging

from fedmesh.clock import Clock, SystemClock
from fedmesh.coordinator.control import RunState, Wish
from fedmesh.coordinator.runstore import RunStore
from fedmesh.coordinator.storedjournal import StoredJournal
from fedmesh.errors import ConfigError

__all__ = ["StoredControl"]

_LOG = logging.getLogger(__name__)


class StoredControl:
    """A `Control` that any process with access to the store commands (``fedmesh runs stop``).

    While the store cannot be read, what was asked last goes on being asked.

    Args:
        store: that the run is in.
        journal: of the run; states are written under its lease.
        poll_s: the store is asked no more often, by the clock.
        clock: monotonic.
    """

    def __init__(
        self, store: RunStore, journal: StoredJournal, *, poll_s: float = 1.0, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._journal = journal
        self._poll_s = poll_s
        self._clock = SystemClock() if clock is None else clock
        self._wish = Wish.RUN
        self._next_s: float | None = None

    def state(self) -> Wish:
        """What is asked, at most `poll_s` old."""
        now = self._clock.now()
        if self._next_s is None or now >= self._next_s:
            self._next_s = now + self._poll_s
            try:
                self._wish = self._store.asked(self._journal.run_id)
            except ConfigError as error:
                _LOG.warning("what is asked of the run cannot be read, %s goes on: %s", self._wish.value, error)
        return self._wish

    def report(self, state: RunState, reason: str = "") -> None:
        """Durable when it returns. Raises: ConfigError: the store cannot be written, or the run is another's by now."""
        self._journal.write_run(state=state.value, reason=reason)
