"""The state machine of one round: ``handle(event, now) -> effects``, with no clock and no I/O of its own.

Guaranteed, in whatever order replies arrive: a script sees every stage's replies by ascending node id; a reply counts
once; a reply of an earlier stage is ignored; a stage ends when all answered, when it has enough, or at its deadline;
with fewer good replies than its quorum the round fails.
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
        self._replies: dict[int, Message] = {}
        self._running = False
        self.wake_at: float | None = None
        """When `handle` wants a Tick, on the caller's clock; None: not before a reply."""
        self.asked: set[int] = set()
        """Node ids that got a message in the first stage."""
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
        self._replies[event.index] = event.message
        if event.message.has_error():
            node_id = self._stage.messages[event.index].metadata.dst_node_id
            self.failures[node_id] = excerpt(event.message.error.reason) or f"error {event.message.error.code}"

    def _over(self, now: float) -> bool:
        if len(self._replies) == len(self._stage.messages) or (self.wake_at is not None and now >= self.wake_at):
            return True
        return self._stage.enough is not None and len(self._good()) >= self._stage.enough

    def _good(self) -> list[Message]:
        return [reply for reply in self._replies.values() if not reply.has_error()]

    def _enter(self, following: Stage | Outcome, now: float) -> list[Effect]:
        if isinstance(following, Outcome):
            self._running = False
            self.wake_at = None
            self.failures.update({node_id: excerpt(reason) for node_id, reason in following.refused.items()})
            return [Finish(following)]
        self._number += 1
        self._stage, self._replies, self._running = following, {}, True
        if self._number == 0:
            self.asked = {message.metadata.dst_node_id for message in following.messages}
        if not following.messages:
            return self._conclude(now)
        deadline_s = self._deadline_s if following.deadline_s is None else following.deadline_s
        self.wake_at = None if deadline_s is None else now + deadline_s
        return [Send(self._number, following)]

    def _conclude(self, now: float) -> list[Effect]:
        """Ends the stage and enters what follows."""
        effects: list[Effect] = []
        missing = tuple(i for i in range(len(self._stage.messages)) if i not in self._replies)
        enough = self._stage.enough is not None and len(self._good()) >= self._stage.enough
        if missing:
            reason = "enough others answered before" if enough else "no answer by the deadline"
            effects.append(Abandon(self._number, missing, reason))
            for index in missing:
                self.failures[self._stage.messages[index].metadata.dst_node_id] = reason
        if len(self._good()) < self._stage.quorum:
            self._running = False
            raise self._below_quorum()
        return effects + self._enter(self._script.proceed(self._ordered()), now)

    def _ordered(self) -> Sequence[Message]:
        order = sorted(self._replies, key=lambda i: (self._stage.messages[i].metadata.dst_node_id, i))
        return [self._replies[i] for i in order]

    def _below_quorum(self) -> QuorumError:
        arrived, wanted = len(self._good()), self._stage.quorum
        first = next((f"; node {node} said: {reason}" for node, reason in sorted(self.failures.items())), "")
        return QuorumError(
            f"{arrived} of {len(self._stage.messages)} devices answered in stage {self._stage.name!r}, the quorum is "
            f"{wanted}: lower the quorum, ask more devices or raise the deadline{first}",
            arrived=arrived,
            wanted=wanted,
        )
