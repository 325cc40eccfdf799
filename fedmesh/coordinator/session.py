"""One session of secure aggregation as the round sees it: an `Aggregator`, and which node is which member.

A session moves step by step. `orders` are the messages of the step, `hear` takes the answers in any order, `close` ends
the step with whoever answered. A member's bad message costs that member; an abort costs the session, never the round.
"""

from collections.abc import Mapping
from types import MappingProxyType

from fedmesh.coordinator.records import SessionRecord
from fedmesh.errors import SecAggError
from fedmesh.flower.records import excerpt
from fedmesh.secagg import Aggregator, SessionHeader, SumResult

__all__ = ["Session"]

_AGGREGATOR_STEPS = {"train": "mask"}
"""Our name of a step -> the aggregator's, where they differ."""
_CAUTION = 1.5
"""Of rounds in which 30 % of 100 devices go, each at some step, one in 30 fails with it and one in 5 without; at 5 % it
costs nothing."""


class Session:
    """A session in progress.

    Args:
        group: its number among those of its attempt.
        header: of the session.
        aggregator: for that header.
        nodes: node id -> name of the member, for the whole cohort.
    """

    def __init__(self, group: int, header: SessionHeader, aggregator: Aggregator, nodes: Mapping[int, str]) -> None:
        self.header = header
        self.group = group
        self.nodes = MappingProxyType(dict(nodes))
        self.orders: dict[int, bytes] = dict.fromkeys(nodes, header.to_bytes())
        """Node id -> this step's message to it: at first the header."""
        self.members = len(nodes)
        """Devices whose input is in the sum, or may still come to be."""
        self.refused: dict[int, str] = {}
        """Node id -> why its message was not taken."""
        self.error: SecAggError | None = None
        """Why the session came to nothing."""
        self._aggregator = aggregator
        self._node_of = {name: node for node, name in nodes.items()}
        self._following: dict[int, bytes] = {}

    @property
    def result(self) -> SumResult | None:
        """The sum, once there is one."""
        return None if self.error is not None else self._aggregator.result

    @property
    def complete(self) -> bool:
        """Whether nobody of the cohort has been lost."""
        return self.error is None and len(self.orders) == len(self.nodes)

    def bind(self, model_hash: bytes, scale_hash: bytes) -> None:
        """Says what the inputs belong to, for a header that left it open."""
        self._aggregator.bind(model_hash, scale_hash)

    def hear(self, node: int, message: bytes) -> bool:
        """A member's answer to its order; whether it was taken."""
        if self.error is not None or node not in self.orders:
            return False
        try:
            self._follow(self._aggregator.handle(self.nodes[node], message))
        except SecAggError as error:
            if self._aggregator.step == "aborted":
                self.error = error
                return True  # the session's end is not the fault of the one who spoke last
            self.refused[node] = excerpt(f"{error.code}: {error}")
            return False
        return True

    def close(self, step: str) -> None:
        """Ends `step`, also for those who did not answer: `orders` are the next step's, or `error` is set."""
        if self.error is None and self._aggregator.step == _AGGREGATOR_STEPS.get(step, step):
            try:
                self._follow(self._aggregator.advance())
            except SecAggError as error:
                self.error = error
        self.orders, self._following = self._following, {}
        if self.error is not None:
            self.orders = {}
        if step in {"advertise", "share", "train"}:
            self.members = len(self.orders)

    def strained(self, done: int, left: int) -> bool:
        """Whether it is likely to lose more than it can, where the same devices in a new session could lose more.

        What is still to be lost is taken to be what was lost, in proportion to the steps `done` and `left`.
        """
        spare = self.members - self.header.threshold
        expected = (len(self.nodes) - self.members) * left / done
        renewed = self.members - SessionHeader.threshold_for(self.members)
        return self.error is None and spare < _CAUTION * expected and spare < renewed

    def give_up(self) -> None:
        """Ends it for a new one among those who are left; before the inputs, so that nobody has trained in vain."""
        if self.error is None:
            lost = len(self.nodes) - self.members
            self.error = SecAggError(
                f"{lost} of {len(self.nodes)} devices were lost before the training: begun again among the others, who "
                "can lose more that way",
                code="threshold",
            )

    def record(self) -> SessionRecord:
        """What is to be remembered of it."""
        survivors = 0 if self.result is None else len(self.result.survivors)
        aborted = None if self.error is None else excerpt(f"{self.error.code}: {self.error}")
        header = self.header
        return SessionRecord(self.group, header.attempt, len(header.cohort), survivors, aborted)

    def _follow(self, messages: list[tuple[str, bytes]]) -> None:
        self._following.update({self._node_of[name]: message for name, message in messages})
