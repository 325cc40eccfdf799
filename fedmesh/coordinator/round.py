"""The state machine of one round: ``handle(event, now) -> effects``, with no clock and no I/O of its own.

Guaranteed, in whatever order replies arrive: a script sees every stage's replies by ascending node id (unless the stage
takes them as they arrive); a reply counts once; a reply of an earlier stage is ignored; a stage ends when all answered,
when it has enough, or at its deadline; with fewer good replies than its quorum the round fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Message

from fedmesh.coordinator.stage import Outcome, Script, Stage
from fedmesh.errors import QuorumError, RoundError
from fedmesh.flower.records import excerpt

__all__ = ["Abandon", "Begin", "Effect", "Finish", "Input", "Replied", "Round", "Send", "Tick"]


@dataclass(frozen=True, slots=True)
class Begin:
    """The round may begin."""


@dataclass(frozen=True, slots=True)
class Replied:
    """The reply to message `index` of stage `stage` (both count from 0)."""

    stage: int
    index: int
    message: Message


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the messages of a stage, and report their replies with this stage number."""

    number: int
    stage: Stage


@dataclass(frozen=True, slots=True)
class Abandon:
    """The replies to these messages of stage `number` are no longer waited for."""

    number: int
    indices: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The round is over."""

    outcome: Outcome


Input = Begin | Replied | Tick
Effect = Send | Abandon | Finish


class Round:
    """One round.

    Args:
        script: the round's logic.
        deadline_s: longest wait for a stage that names none; None waits for ever.
    """

    def __init__(self, script: Script, *, deadline_s: float | None = None) -> None:
        self._script = script
        self._deadline_s = deadline_s
        self._number = -1
        self._stage = Stage("", ())
        self._replies: dict[int, Message | None] = {}  # None: given to the script when it came
        self._running = False
        self.wake_at: float | None = None
        """When `handle` wants a Tick, on the caller's clock; None: not before a reply."""
        self.asked: set[int] = set()
        """Node ids that the first stage is about."""
        self.failures: dict[int, str] = {}
        """Node id -> why it fell out of the round."""

    def handle(self, event: Input, now: float) -> list[Effect]:
        """What to do about `event` at `now` seconds.

        Raises:
            RoundError: the round has failed. What a script raises beyond that is raised as it is.
        """
        if isinstance(event, Begin):
            if self._number >= 0:
                raise RoundError("a round begins once")
            return self._enter(self._script.begin(), now)
        if not self._running:
            return []
        if isinstance(event, Replied):
            self._take(event)
        return self._conclude(now) if self._over(now) else []

    def _take(self, event: Replied) -> None:
        if event.stage != self._number or event.index in self._replies or event.index >= len(self._stage.messages):
            return
        if event.message.has_error():
            self._replies[event.index] = event.message
            self._lose(event.index, excerpt(event.message.error.reason) or f"error {event.message.error.code}")
        elif self._stage.arrived is None:
            self._replies[event.index] = event.message
        else:
            self._replies[event.index] = None
            self._stage.arrived(event.message)

    def _lose(self, index: int, reason: str) -> None:
        node_id = self._stage.messages[index].metadata.dst_node_id
        if self._stage.counts(node_id):
            self.failures[node_id] = reason

    def _over(self, now: float) -> bool:
        if len(self._replies) == len(self._stage.messages) or (self.wake_at is not None and now >= self.wake_at):
            return True
        return self._enough()

    def _enough(self) -> bool:
        stage = self._stage
        if stage.enough is not None and self._good() >= stage.enough:
            return True
        return stage.satisfied is not None and stage.satisfied()

    def _good(self) -> int:
        return sum(reply is None or not reply.has_error() for reply in self._replies.values())

    def _enter(self, following: Stage | Outcome, now: float) -> list[Effect]:
        if isinstance(following, Outcome):
            self._running = False
            self.wake_at = None
            self.failures.update({node_id: excerpt(reason) for node_id, reason in following.refused.items()})
            return [Finish(following)]
        self._number += 1
        self._stage, self._replies, self._running = following, {}, True
        if self._number == 0:
            nodes = {message.metadata.dst_node_id for message in following.messages}
            self.asked = nodes if following.about is None else set(following.about)
        if not following.messages:
            return self._conclude(now)
        deadline_s = self._deadline_s if following.deadline_s is None else following.deadline_s
        self.wake_at = None if deadline_s is None else now + deadline_s
        return [Send(self._number, following)]

    def _conclude(self, now: float) -> list[Effect]:
        """Ends the stage and enters what follows."""
        effects: list[Effect] = []
        missing = tuple(i for i in range(len(self._stage.messages)) if i not in self._replies)
        if missing:
            reason = "enough others answered before" if self._enough() else "no answer by the deadline"
            effects.append(Abandon(self._number, missing, reason))
            for index in missing:
                self._lose(index, reason)
        if self._good() < self._stage.quorum:
            self._running = False
            raise self._below_quorum()
        return effects + self._enter(self._script.proceed(self._ordered()), now)

    def _ordered(self) -> Sequence[Message]:
        order = sorted(self._replies, key=lambda i: (self._stage.messages[i].metadata.dst_node_id, i))
        return [reply for i in order if (reply := self._replies[i]) is not None]

    def _below_quorum(self) -> QuorumError:
        arrived, wanted = self._good(), self._stage.quorum
        first = next((f"; node {node} said: {reason}" for node, reason in sorted(self.failures.items())), "")
        return QuorumError(
            f"{arrived} of {len(self._stage.messages)} devices answered in stage {self._stage.name!r}, the quorum is "
            f"{wanted}: lower the quorum, ask more devices or raise the deadline{first}",
            arrived=arrived,
            wanted=wanted,
        )
