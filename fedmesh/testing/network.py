"""A network in memory between one aggregator and its devices, as bad as a test asks for, and the same for one seed.

It loses, duplicates, delays and reorders messages, lets devices crash in a step, restarts them between steps, and
closes a step when it has lasted long enough; time is a count of ticks. No thread, no clock, no socket.
"""

import heapq
import random
from collections.abc import Callable, Mapping

from fedmesh.errors import SecAggError
from fedmesh.secagg import Aggregator, Participant, SumResult
from fedmesh.secagg.aggregator import STEPS

__all__ = ["MemoryNetwork"]

_AGGREGATOR = ""  # no device has this name
_ORDER = (*STEPS, "done", "aborted")


class MemoryNetwork:
    """Carries one session of secure aggregation from the advertise messages to its result.

    Args:
        chance: decides every fault; the network draws from nothing else.
        loss: probability that a message does not arrive.
        duplication: probability that it arrives twice, each copy delayed on its own.
        delay: most ticks that a message takes beyond one; messages overtake each other.
        patience: ticks after which a step is closed, or asked for again.
        retries: times that the devices not heard get the step's message again before it is closed.
        crashes: device -> the step (one of the aggregator's `STEPS`) from which on nothing comes from it.
        reopen: gives the device that goes on in the place of one that was restarted. restarts: probability of that,
            before each message that a device handles.

    Attributes:
        refused: (name, error) for every message that a device, or the aggregator under a device's name, refused.
        delivered: messages that arrived.
    """

    def __init__(
        self,
        chance: random.Random,
        *,
        loss: float = 0.0,
        duplication: float = 0.0,
        delay: int = 0,
        patience: int = 100,
        retries: int = 0,
        crashes: Mapping[str, str] | None = None,
        reopen: Callable[[Participant], Participant] | None = None,
        restarts: float = 0.0,
    ) -> None:
        self.refused: list[tuple[str, SecAggError]] = []
        self.delivered = 0
        self._chance, self._loss, self._duplication, self._delay = chance, loss, duplication, delay
        self._patience, self._retries = patience, retries
        self._crashes = dict(crashes or {})
        self._reopen, self._restarts = reopen, restarts
        self._now, self._closes, self._sent_again = 0, 0, 0
        self._under_way: list[tuple[int, float, str, str, bytes]] = []
        self._latest: dict[str, tuple[str, bytes]] = {}  # device -> receiver and bytes of what this step waits for

    def run(
        self, aggregator: Aggregator, participants: dict[str, Participant], first: Mapping[str, bytes]
    ) -> SumResult:
        """The sum of the session.

        Args:
            aggregator: in its first step.
            participants: by name; restarted ones are replaced in this very map.
            first: device -> its advertise message.

        Raises:
            SecAggError: the aggregator gave the round up.
        """
        self._enter({name: (_AGGREGATOR, message) for name, message in first.items()})
        while aggregator.result is None:
            if self._under_way and self._under_way[0][0] <= self._closes:
                self._deliver(aggregator, participants)
            else:
                self._close(aggregator)
        while self._under_way:  # what comes after the end must do no harm either
            self._deliver(aggregator, participants)
        return aggregator.result

    def _enter(self, messages: dict[str, tuple[str, bytes]]) -> None:
        """Begins a step with these messages, one from or to each of its devices."""
        self._latest, self._sent_again = messages, 0
        self._closes = self._now + self._patience
        for name, (receiver, message) in messages.items():
            self._send(name, receiver, message, "advertise")

    def _close(self, aggregator: Aggregator) -> None:
        """Asks again, or goes on without the devices that were not heard."""
        self._now = self._closes
        if self._sent_again == self._retries:
            self._enter({name: (name, message) for name, message in aggregator.advance()})
            return
        self._sent_again += 1
        self._closes = self._now + self._patience
        for name in sorted(aggregator.awaiting & self._latest.keys()):
            self._send(name, *self._latest[name], aggregator.step)

    def _send(self, device: str, receiver: str, message: bytes, step: str) -> None:
        if receiver == _AGGREGATOR and self._is_gone(device, step):
            return
        for _ in range(2 if self._chance.random() < self._duplication else 1):
            if self._chance.random() >= self._loss:
                arrives = self._now + 1 + self._chance.randint(0, self._delay)
                heapq.heappush(self._under_way, (arrives, self._chance.random(), device, receiver, message))

    def _deliver(self, aggregator: Aggregator, participants: dict[str, Participant]) -> None:
        self._now, _, device, receiver, message = heapq.heappop(self._under_way)
        self.delivered += 1
        try:
            if receiver == _AGGREGATOR:
                outgoing = aggregator.handle(device, message)
                if outgoing:
                    self._enter({name: (name, sent) for name, sent in outgoing})
                return
            if self._is_gone(device, aggregator.step):
                return
            answer = self._device(participants, device).handle(message)
            if answer is not None:
                self._send(device, _AGGREGATOR, answer, aggregator.step)
        except SecAggError as error:
            if aggregator.step == "aborted" and receiver == _AGGREGATOR:
                raise
            self.refused.append((device, error))

    def _device(self, participants: dict[str, Participant], name: str) -> Participant:
        if self._reopen is not None and self._chance.random() < self._restarts:
            participants[name] = self._reopen(participants[name])
        return participants[name]

    def _is_gone(self, device: str, step: str) -> bool:
        """Whether it crashed in this step, or in one before."""
        return device in self._crashes and _ORDER.index(self._crashes[device]) <= _ORDER.index(step)
