"""The next round's sessions, whose keys are exchanged while this round's devices train and sign.

A round that finds its sessions prepared starts with the training: three exchanges instead of five. They are only used
if nobody was lost while they were prepared and the strategy then draws exactly these devices; a session with a loss
before it has begun has less left to lose, and the keys are cheaper than a round.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from fedmesh.coordinator.attempt import Attempt
from fedmesh.coordinator.convener import Convener
from fedmesh.coordinator.registry import Registry
from fedmesh.coordinator.secure_settings import Belongs
from fedmesh.errors import QuorumError
from fedmesh.flower.secure import Order

__all__ = ["Ahead", "Draw"]

Draw = Callable[[int, Sequence[int]], Collection[int]]
"""(round, the nodes that are there) -> those that the strategy is going to draw."""


class Ahead:
    """At most one prepared attempt, at the round after the one under way.

    Args:
        convener: opens the sessions.
        registry: names of the nodes; a device whose name is not known yet has to wait for its round.
        draw: None when the strategy cannot say beforehand whom it draws: nothing is prepared then.
    """

    def __init__(self, convener: Convener, registry: Registry, draw: Draw | None) -> None:
        self._convener = convener
        self._registry = registry
        self._draw = draw
        self._attempt: Attempt | None = None
        self._number = -1

    def prepare(self, number: int, available: Sequence[int], lost: Collection[int], *, quorum: int) -> None:
        """Begins the sessions of round `number`, unless it is not worth the messages.

        Args:
            number: the round after the one under way.
            available: nodes that are there.
            lost: nodes that have fallen out of the round under way.
            quorum: fewest inputs of a round.
        """
        self.drop()
        settings = self._convener.settings
        if not settings.overlap or settings.rounds is None or number > settings.rounds or self._draw is None:
            return
        drawn = set(self._draw(number, available))
        if len(drawn) < self._convener.fewest(quorum) or drawn & set(lost) or self._registry.unknown(drawn):
            return
        names = self._registry.named(drawn)
        if len(names) == len(drawn):
            self._number = number
            with suppress(QuorumError):  # the round itself will say so
                self._attempt = self._convener.open(number, names, None, quorum=quorum)

    def orders(self) -> dict[int, Order]:
        """Node id -> what it is asked to do for the next round."""
        return {} if self._attempt is None else self._attempt.orders()

    def hear(self, node: int, message: bytes | None) -> None:
        """A device's answer; None: it gave none."""
        if self._attempt is not None and message is not None:
            self._attempt.hear(node, message)

    def max_answer_bytes(self, node: int) -> int:
        """Bytes that an answer of this device may take."""
        return 0 if self._attempt is None else self._attempt.max_answer_bytes(node)

    def close(self) -> None:
        """Ends the step; what is not complete is dropped."""
        if self._attempt is not None:
            self._attempt.close()
            if not self._attempt.complete:
                self.drop()

    def drop(self) -> None:
        """Forgets the prepared sessions. Devices forget theirs when the next ones begin."""
        self._attempt = None

    def take(self, number: int, nodes: Collection[int], belongs: Belongs) -> Attempt | None:
        """The attempt at round `number`, ready to train, if there is one for exactly `nodes`. It is given out once."""
        attempt, self._attempt = self._attempt, None
        if attempt is None or self._number != number or attempt.step != "train" or attempt.nodes != set(nodes):
            return None
        attempt.bind(*belongs)
        return attempt
