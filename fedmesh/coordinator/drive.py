"""Drives the state machine of a round over a grid: sends what it wants sent, and tells it what came back, and when."""

from collections.abc import Sequence

from flwr.serverapp import Grid

from fedmesh.clock import Clock
from fedmesh.coordinator.control import Control, Wish
from fedmesh.coordinator.round import Abandon, Begin, Effect, Finish, Replied, Round, Send, Tick
from fedmesh.coordinator.stage import Outcome
from fedmesh.coordinator.stagelog import StageLog
from fedmesh.errors import RoundError
from fedmesh.events import EventSink, StageStarted
from fedmesh.flower.grid import FleetGrid, wait

__all__ = ["Drive"]


class Drive:
    """One round.

    Args:
        machine: of the round.
        number: of the round.
        grid: reaches the nodes.
        log: is told of every stage and answer.
        clock: the machine's time.
        events: gets StageStarted.
        control: may end the round at once.
    """

    def __init__(  # noqa: PLR0917 - all are needed, none has a default
        self,
        machine: Round,
        number: int,
        grid: Grid,
        log: StageLog,
        clock: Clock,
        events: EventSink,
        control: Control,
    ) -> None:
        self._machine = machine
        self._number = number
        self._grid = grid
        self._log = log
        self._clock = clock
        self._events = events
        self._control = control
        self._pending: dict[str, tuple[int, int]] = {}  # message id -> stage, index

    def run(self) -> Outcome | None:
        """Until the round is over; None: it was abandoned, as the operator asked.

        Raises:
            RoundError: it has failed. What its script raises beyond that is raised as it is.
        """
        try:
            effects = self._machine.handle(Begin(), self._clock.now())
            while True:
                outcome = self._apply(effects)
                if outcome is not None:
                    return outcome
                if self._control.state() is Wish.STOP_NOW:
                    return None
                effects = self._await()
        finally:  # the machine failed, or the operator interrupts
            self._abandon(list(self._pending), "the round is over")

    def _apply(self, effects: Sequence[Effect]) -> Outcome | None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Abandon(stage, indices, reason):
                    dropped = {(stage, index) for index in indices}
                    late = [message_id for message_id, key in self._pending.items() if key in dropped]
                    for message_id in late:
                        del self._pending[message_id]
                    self._abandon(late, reason)
                case Finish(outcome):
                    return outcome
        return None

    def _send(self, send: Send) -> None:
        stage = send.stage
        self._log.begin(stage.name, len(stage.messages))
        self._events(StageStarted(self._number, stage.name, len(stage.messages)))
        ids = list(self._grid.push_messages(stage.messages))
        if len(ids) != len(stage.messages):  # Flower's grids leave out nodes that have gone
            raise RoundError(f"the grid took {len(ids)} of {len(stage.messages)} messages: nodes have left")
        self._pending.update({message_id: (send.number, index) for index, message_id in enumerate(ids)})

    def _await(self) -> list[Effect]:
        """Waits for replies or the deadline, whichever is first."""
        machine = self._machine
        replies = list(self._grid.pull_messages(self._pending))
        if not replies:
            left = None if machine.wake_at is None else machine.wake_at - self._clock.now()
            if left is None or left > 0:
                wait(self._grid, left)
            return machine.handle(Tick(), self._clock.now())
        effects: list[Effect] = []
        for reply in replies:
            stage, index = self._pending.pop(reply.metadata.reply_to_message_id)
            if not reply.has_error():
                self._log.heard()
            effects += machine.handle(Replied(stage, index, reply), self._clock.now())
        return effects

    def _abandon(self, message_ids: list[str], reason: str) -> None:
        if isinstance(self._grid, FleetGrid):
            self._grid.abandon(message_ids, reason)
