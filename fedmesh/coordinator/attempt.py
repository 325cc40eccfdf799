"""An attempt at a round under secure aggregation: the sessions of all groups, step by step and side by side."""

from collections.abc import Collection, Sequence

from fedmesh.coordinator.records import SessionRecord
from fedmesh.coordinator.session import Session
from fedmesh.coordinator.settings import share_of
from fedmesh.errors import SecAggError
from fedmesh.flower.secure import STEPS, Order
from fedmesh.secagg import SumResult
from fedmesh.secagg.messages import Kind, largest

__all__ = ["Attempt"]


class Attempt:
    """The sessions of one attempt; every device is in one of them.

    Args:
        sessions: one for each group, all with the same round and attempt.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = tuple(sessions)
        self._of_node = {node: session for session in sessions for node in session.nodes}
        self.nodes = frozenset(self._of_node)
        """The devices that it began with."""
        self._steps = iter(STEPS)
        self.step = next(self._steps)
        """The step under way, one of `STEPS`; at last ``done``."""

    @property
    def members(self) -> int:
        """Devices whose input is in a sum, or may still come to be."""
        return sum(session.members for session in self._sessions if session.error is None)

    @property
    def complete(self) -> bool:
        """Whether nobody has been lost."""
        return all(session.complete for session in self._sessions)

    @property
    def error(self) -> SecAggError | None:
        """Why the first session that came to nothing did."""
        return next((session.error for session in self._sessions if session.error is not None), None)

    @property
    def results(self) -> tuple[SumResult, ...]:
        """The sums of the groups that have one."""
        return tuple(session.result for session in self._sessions if session.result is not None)

    @property
    def refused(self) -> dict[int, str]:
        """Node id -> why a message of it was not taken."""
        return {node: reason for session in self._sessions for node, reason in session.refused.items()}

    @property
    def records(self) -> tuple[SessionRecord, ...]:
        """What is to be remembered of the sessions."""
        return tuple(session.record() for session in self._sessions)

    def orders(self) -> dict[int, Order]:
        """Node id -> what it is asked to do at this step."""
        field = "header" if self.step == "advertise" else "message"
        messages = {node: message for session in self._sessions for node, message in session.orders.items()}
        return {node: Order(self.step, **{field: message}) for node, message in messages.items()}

    def max_answer_bytes(self, node: int) -> int:
        """Bytes that an answer of this device may take, 0 for a stranger's; its session knows each step's own limit."""
        session = self._of_node.get(node)
        return 0 if session is None else largest(Kind.MASKED, session.header)

    def enough(self, answered: Collection[int], wanted: int) -> bool:
        """Whether every session that goes on has its share of `wanted` answers, and as many as it cannot do without."""
        return all(
            len(session.nodes.keys() & answered)
            >= max(session.header.fewest, share_of(wanted, len(session.nodes), len(self.nodes)))
            for session in self._sessions
            if session.error is None
        )

    @property
    def strained(self) -> bool:
        """Whether most devices are in sessions that are better begun again, now that they have not trained yet."""
        done = STEPS.index(self.step) if self.step in {"share", "train"} else 0
        if not done:
            return False
        left = len(STEPS) - done
        return 2 * sum(session.members for session in self._sessions if session.strained(done, left)) > self.members

    def give_up(self) -> None:
        """Ends all sessions for new ones."""
        for session in self._sessions:
            session.give_up()

    def bind(self, model_hash: bytes, scale_hash: bytes) -> None:
        """Says what the inputs belong to, in sessions that were begun before that was known."""
        for session in self._sessions:
            session.bind(model_hash, scale_hash)

    def hear(self, node: int, message: bytes) -> bool:
        """A device's answer; whether it was taken."""
        return node in self._of_node and self._of_node[node].hear(node, message)

    def close(self) -> None:
        """Ends the step in every session."""
        for session in self._sessions:
            session.close(self.step)
        self.step = next(self._steps, "done")
