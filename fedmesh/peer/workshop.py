"""The process that works for one run of a mesh (`fedmesh.fleet.mesh_child`), as its member uses it.

One job at a time. It may end at any moment, by a limit or because nobody waits any more: the next job gets another,
which is told first what the round begins with.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmesh.errors import DecodeError, RoundError
from fedmesh.fleet.training import Outcome, Training
from fedmesh.wire import loads

__all__ = ["Applied", "Facts", "Workshop"]

_META_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a round: hashes of the model and of the scales that its session names; whether the budget has room for it."""

    round: int
    model: bytes
    scales: bytes
    affords: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a sum: model and strategy's state, and epsilon spent by who was in every round; None without DP."""

    model: bytes
    state: bytes
    epsilon: float | None


class Workshop:
    """Of one run.

    Args:
        training: the process.
        timeout_s: longest that a job may take.
    """

    def __init__(self, training: Training, *, timeout_s: float) -> None:
        self._training, self._timeout_s = training, timeout_s
        self._turn = asyncio.Lock()
        self._basis: tuple[int, bytes, bytes] | None = None
        self._prepared: tuple[int, int | None] | None = None
        """Round and process that was told of it."""

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._training.pid

    async def prepare(self, number: int, model: bytes, state: bytes) -> Facts:
        """Works out round `number`. Raises: RoundError: it cannot be done here."""
        async with self._turn:
            self._basis = (number, model, state)
            return await self._prepare()

    async def step(self, number: int, step: str, message: bytes, state: bytes) -> tuple[bytes, bytes]:
        """What secure aggregation answers, and the state behind it. Raises: RoundError: it does not, and why."""
        async with self._turn:
            outcome = await self._ask({"what": "step", "round": number, "step": step}, state, message)
        if outcome.refused or len(outcome.reply) != 2 or outcome.state is None:
            raise RoundError(f"the step {step!r} was refused here: {outcome.refused or 'malformed'}")
        return bytes(outcome.reply[1]), outcome.state

    async def apply(self, number: int, total: bytes, weight: int) -> Applied:
        """What a sum (int64 [n], little-endian) makes of the round's model. Raises: RoundError: nothing."""
        async with self._turn:
            outcome = await self._ask({"what": "apply", "round": number, "weight": weight}, b"", total)
        meta = _meta(outcome)
        if len(outcome.reply) != 3:
            raise RoundError("the sum was applied, and what came of it is no model and state")
        return Applied(bytes(outcome.reply[1]), bytes(outcome.reply[2]), meta["epsilon"])

    async def average(self, step: int, codes: bytes) -> tuple[bytes, bytes] | None:
        """Input of a step of gossip averaging, and the model if it is in no sum; None: this device cannot pay.

        Args:
            step: of the run. codes: the model, int64 [P], little-endian, as is what comes back.

        Raises:
            RoundError: it came to nothing.
        """
        async with self._turn:
            outcome = await self._exchanged({"what": "average", "round": step}, b"", codes)
        if not _meta(outcome)["pays"]:
            return None
        if len(outcome.reply) != 3:
            raise RoundError("a step was trained, and what came of it is no input and model")
        return bytes(outcome.reply[1]), bytes(outcome.reply[2])

    async def deliver(self, number: int, model: bytes, **facts: Any) -> dict[str, float]:
        """Figures of the version that was signed; see `fedmesh.fleet.mesh_delivery`. Raises: RoundError: none was."""
        async with self._turn:
            return _meta(await self._exchanged({"what": "deliver", "round": number, **facts}, b"", model))

    def close(self) -> None:
        """Ends the process; idempotent."""
        self._training.close()

    async def _prepare(self) -> Facts:
        assert self._basis is not None
        number, model, state = self._basis
        outcome = await self._exchanged({"what": "prepare", "round": number}, b"", model, state)
        meta = _meta(outcome)
        self._prepared = number, self._training.pid
        return Facts(number, meta["model"], meta["scales"], meta["affords"])

    async def _ask(self, head: Mapping[str, Any], state: bytes, *buffers: bytes) -> Outcome:
        if self._basis is None or self._basis[0] != head["round"]:
            raise RoundError(f"round {head['round']} was not prepared")
        if self._prepared != (head["round"], self._training.pid):
            await self._prepare()
        return await self._exchanged(head, state, *buffers)

    async def _exchanged(self, head: Mapping[str, Any], state: bytes, *buffers: bytes) -> Outcome:
        outcome = await self._training.ask(head, state, (b"", *buffers), timeout_s=self._timeout_s)
        if outcome.error:
            raise RoundError(f"{head['what']} came to nothing in the process that trains: {outcome.error}")
        return outcome


def _meta(outcome: Outcome) -> dict[str, Any]:
    try:
        found = loads(bytes(outcome.reply[0]), max_bytes=_META_BYTES)
    except DecodeError as error:
        raise RoundError("the process that trains answered what is no answer") from error
    if not isinstance(found, dict):
        raise RoundError("the process that trains answered what is no answer")
    return found
