"""A session of secure aggregation as its coordinator carries it: an `Aggregator`, and what becomes of the sum.

Down go ``[step, message]``, CBOR; at the first step the message is the session's header. Up come the devices' messages
as they are. The sum is applied in the process that trains; until that is done the session awaits nobody and is not
over.
"""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from fedmesh.errors import DecodeError, FedMeshError, RoundError
from fedmesh.mesh.rounds.sessions import Outcome, Outgoing
from fedmesh.peer.workshop import Applied
from fedmesh.secagg import Aggregator, SumResult
from fedmesh.wire import dumps, loads

__all__ = ["STEPS", "MeshSum", "read_step"]

STEPS = ("advertise", "share", "train", "sign", "unmask")
_NAMED = {"mask": "train"}  # the aggregator's name of a step -> what a device calls it


def read_step(data: bytes, *, max_bytes: int) -> tuple[str, bytes]:
    """Step and message of what a coordinator sends down. Raises: RoundError: it is neither."""
    try:
        plain = loads(data, max_bytes=max_bytes, max_depth=1)
    except DecodeError as error:
        raise RoundError(f"a step of a session is malformed: {error}") from error
    match plain:
        case [str(step), bytes(message)] if step in STEPS:
            return step, message
    raise RoundError("a step of a session is no name and message")


class MeshSum:
    """See `fedmesh.mesh.rounds.sessions.Summing`.

    Args:
        aggregator: of the session.
        apply: what a sum makes of the round's model.
        hold: puts bytes where the other members can fetch them; gives their SHA-256.
        spawn: runs something beside; changed: called when what is said here has changed by itself.
        told: called with a step's name and to how many devices it goes.
        is_resumed: whether another began the session.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        *,
        apply: Callable[[bytes, int], Awaitable[Applied]],
        hold: Callable[[bytes], bytes],
        spawn: Callable[[Awaitable[None]], object],
        changed: Callable[[], None],
        told: Callable[[str, int], None],
        is_resumed: bool = False,
    ) -> None:
        self._aggregator, self._is_resumed = aggregator, is_resumed
        self._apply, self._hold, self._spawn, self._changed = apply, hold, spawn, changed
        self._told = told
        self._outcome: Outcome | None = None
        self._has_failed = self._is_applying = False

    @property
    def awaiting(self) -> frozenset[str]:
        """Who has not answered in this step."""
        return self._aggregator.awaiting

    @property
    def is_training(self) -> bool:
        """Whether devices train in this step."""
        return self._aggregator.step == "mask"

    @property
    def has_failed(self) -> bool:
        """Whether it was given up."""
        return self._has_failed or self._aggregator.step == "aborted"

    @property
    def outcome(self) -> Outcome | None:
        """What it came to, once the sum is applied."""
        return self._outcome

    @property
    def handover(self) -> bytes | None:
        """What a deputy needs to go on."""
        return self._aggregator.handover() if self._aggregator.step in {"sign", "unmask"} else None

    def begin(self) -> Outgoing:
        """The first messages."""
        if self._is_resumed:
            return self.close_step()
        announced = dumps(["advertise", self._aggregator.header.to_bytes()])
        cohort = self._aggregator.header.cohort
        self._told("advertise", len(cohort))
        return [(name, announced) for name in cohort]

    def take(self, sender: str, data: bytes) -> Outgoing:
        """Takes a device's message. Raises: RoundError: it is refused."""
        return self._following(self._aggregator.handle(sender, data))

    def close_step(self) -> Outgoing:
        """Goes on without those who have not answered. Raises: RoundError: it has failed."""
        return [] if self._is_applying else self._following(self._aggregator.advance())

    def _following(self, outgoing: Outgoing) -> Outgoing:
        result = self._aggregator.result
        if result is not None and not self._is_applying:
            self._is_applying = True
            self._spawn(self._finish(result))
        step = _NAMED.get(self._aggregator.step, self._aggregator.step)
        if outgoing:
            self._told(step, len(outgoing))
        return [(name, dumps([step, message])) for name, message in outgoing]

    async def _finish(self, result: SumResult) -> None:
        total = np.ascontiguousarray(result.total, "<i8").tobytes()
        try:
            applied = await self._apply(total, result.weight)
            model, state = await asyncio.to_thread(lambda: (self._hold(applied.model), self._hold(applied.state)))
        except FedMeshError:
            self._has_failed = True
            raise
        else:
            facts = {} if applied.epsilon is None else {"epsilon": applied.epsilon}
            self._outcome = Outcome(result.survivors, result.context, model, state, result.signatures, facts)
        finally:
            self._changed()
