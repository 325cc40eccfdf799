"""Messages that are sent without waiting, as a core wants them: they may be lost, and old ones are of no use."""

import asyncio
import enum
from collections import Counter
from collections.abc import Callable, Iterable

from fedmesh.errors import FedMeshError
from fedmesh.transport.channel import Channel
from fedmesh.types import PeerId

__all__ = ["Post"]

_MOST = 512
"""Messages to one peer that wait for room; what comes on top is lost, as on a link that is too slow for it."""


class _Until(enum.Enum):
    """How long a message is followed."""

    TAKEN = enum.auto()
    LEFT = enum.auto()
    ARRIVED = enum.auto()


class Post:
    """Of one channel.

    Args:
        expires_in_s: what has not left by then is forgotten.

    Attributes:
        counts: ``dropped`` (too many wait for one peer), ``undelivered`` (of those whose end is watched).
    """

    def __init__(self, channel: Channel, *, expires_in_s: float) -> None:
        self.counts: Counter[str] = Counter()
        self._channel, self._expires_in_s = channel, expires_in_s
        self._loop = asyncio.get_running_loop()
        self._waiting: Counter[PeerId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def send(
        self,
        to: PeerId,
        data: bytes,
        *,
        left: Callable[[], None] | None = None,
        arrived: Callable[[], None] | None = None,
        expires_in_s: float | None = None,
    ) -> None:
        """Takes a message on its way.

        `left` is called when it waits here no longer, `arrived` when `to` has it; either, too, if it is given up.
        `expires_in_s`: of this one, if not as of all.
        """
        then = left or arrived
        if self._closed:
            return
        if self._waiting[to] >= _MOST:
            self.counts["dropped"] += 1
            if then is not None:
                self._loop.call_soon(then)
            return
        until = _Until.LEFT if left else _Until.ARRIVED if arrived else _Until.TAKEN
        self._begin(to, data, then, until, expires_in_s)

    async def last(self, messages: Iterable[tuple[PeerId, bytes]], *, within_s: float) -> None:
        """Sends the last messages, and gives them a while to arrive; cancels what waits."""
        tasks = [self._begin(to, data, None, _Until.ARRIVED) for to, data in messages]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
        await self.aclose()

    async def aclose(self) -> None:
        """Sends nothing any more; what waits is given up, and nobody is told."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(
        self,
        to: PeerId,
        data: bytes,
        then: Callable[[], None] | None,
        until: _Until,
        expires_in_s: float | None = None,
    ) -> "asyncio.Task[None]":
        self._waiting[to] += 1
        task = self._loop.create_task(self._sent(to, data, then, until, expires_in_s or self._expires_in_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _sent(
        self, to: PeerId, data: bytes, then: Callable[[], None] | None, until: _Until, expires_in_s: float
    ) -> None:
        try:
            receipt = await self._channel.post(to, data, expires_in_s=expires_in_s)
            match until:
                case _Until.LEFT:
                    await receipt.left()
                case _Until.ARRIVED:
                    await receipt.delivered()
                case _Until.TAKEN:
                    pass
        except FedMeshError:  # it has expired, or its peer is shunned: a core does without it
            self.counts["undelivered"] += 1
        finally:
            self._waiting[to] -= 1
            if not self._waiting[to]:
                del self._waiting[to]
        if then is not None:
            then()
