"""Calling peers: when something is to be sent to one, at its addresses, else through a neighbour, and again later.

Who is reached through a neighbour is dialled itself now and then: a connection that nobody relays takes its place.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fedmesh.transport.backoff import Backoff
from fedmesh.transport.peer_attempts import Attempts, Outcome
from fedmesh.transport.peer_options import PeerOptions
from fedmesh.transport.peer_pool import Pool
from fedmesh.types import PeerId

__all__ = ["Dialler"]

_REMEMBERED = 1024
_SILENT = Outcome("none of its addresses answers")


class Dialler:
    """Makes connections for a pool.

    Args:
        attempts: makes them.
        failed: told that there is no way to a peer for now; `again` that it may be tried once more.
    """

    def __init__(
        self,
        pool: Pool,
        options: PeerOptions,
        *,
        attempts: Attempts,
        failed: Callable[[PeerId], None],
        again: Callable[[PeerId], None],
        chance: random.Random,
    ) -> None:
        self.trouble: dict[PeerId, str] = {}
        """What was wrong when a peer was last called."""
        self._pool, self._options, self._attempts = pool, options, attempts
        self._failed, self._again, self._chance = failed, again, chance
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(options.dials)
        self._asking = asyncio.Semaphore(options.dials)  # neighbours to relay: nobody waits to be dialled for it
        self._calls: dict[PeerId, asyncio.Task[None]] = {}
        self._waits: dict[PeerId, asyncio.TimerHandle] = {}
        self._backoffs: dict[PeerId, Backoff] = {}
        self._detours: dict[PeerId, asyncio.TimerHandle] = {}
        self._trials: dict[PeerId, asyncio.Task[None]] = {}  # of those who are reached through a neighbour
        self._trial = asyncio.Semaphore(1)
        self._closed = False

    def call(self, peer: PeerId) -> None:
        """Begins to make a connection, unless that is under way, or it is too early for another attempt."""
        if not (self._closed or peer in self._calls or peer in self._waits):
            if trial := self._trials.pop(peer, None):
                trial.cancel()
            self._begin(self._calls, peer, self._call(peer))

    def call_now(self, peer: PeerId) -> None:
        """As `call`, without waiting any longer: somebody has heard of it."""
        if waiting := self._waits.pop(peer, None):
            waiting.cancel()
        self.call(peer)

    def put_off(self, peer: PeerId) -> None:
        """It did not work: `again` is called after a while that doubles from time to time."""
        if self._closed or peer in self._waits:
            return
        backoff = self._backoffs.pop(peer, None) or Backoff(
            self._chance, first_s=self._options.reconnect_s, longest_s=self._options.reconnect_max_s
        )
        self._backoffs[peer] = backoff  # as the last one: the longest unused are forgotten first
        while len(self._backoffs) > _REMEMBERED:
            del self._backoffs[next(iter(self._backoffs))]
        self._waits[peer] = self._loop.call_later(backoff.next_s(), self._waited, peer)

    def reached(self, peer: PeerId, *, by_us: bool) -> None:
        """There is a connection."""
        for calls in (self._calls, self._trials):
            if not by_us and (call := calls.pop(peer, None)):
                call.cancel()
        self.trouble.pop(peer, None)
        for timers in (self._waits, self._detours):
            if waiting := timers.pop(peer, None):
                waiting.cancel()
        if not self._pool.is_direct(peer):
            self._dial_later(peer)

    def dial(self, peer: PeerId) -> None:
        """Dials a peer that is reached through a neighbour itself, unless that is under way."""
        if waiting := self._detours.pop(peer, None):
            waiting.cancel()
        if self._closed or peer not in self._pool.links or self._pool.is_direct(peer):
            return
        if peer not in self._trials:
            self._begin(self._trials, peer, self._tried(peer))
        self._dial_later(peer)

    def steady(self, peer: PeerId) -> None:
        """There was one for a good while: the next failure is the first."""
        self._backoffs.pop(peer, None)

    async def aclose(self) -> None:
        """Calls nobody any more."""
        self._closed = True
        for waiting in [*self._waits.values(), *self._detours.values()]:
            waiting.cancel()
        calls = [*self._calls.values(), *self._trials.values()]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _over(self, calls: dict[PeerId, asyncio.Task[None]], peer: PeerId, done: asyncio.Task[None]) -> None:
        if calls.get(peer) is done:
            del calls[peer]
        if not done.cancelled() and (error := done.exception()) is not None:  # `addresses` is somebody else's
            self._loop.call_exception_handler({"message": f"calling {peer} failed", "exception": error})
            if calls is self._calls:
                self._gave_up(peer, str(error))

    def _gave_up(self, peer: PeerId, trouble: str) -> None:
        while len(self.trouble) >= _REMEMBERED:
            del self.trouble[next(iter(self.trouble))]
        self.trouble[peer] = trouble
        self._pool.count("connection_failed")
        self.put_off(peer)
        self._failed(peer)

    def _waited(self, peer: PeerId) -> None:
        del self._waits[peer]
        self._again(peer)

    def _begin(self, calls: dict[PeerId, asyncio.Task[None]], peer: PeerId, calling: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(calling, name=f"dial-{peer}")
        calls[peer] = task
        task.add_done_callback(lambda done: self._over(calls, peer, done))

    def _dial_later(self, peer: PeerId) -> None:
        """Once more; it looks then whether there is still reason to."""
        wait_s = self._options.direct_s * self._chance.uniform(0.75, 1.25)
        self._detours[peer] = self._loop.call_later(wait_s, self.dial, peer)

    async def _call(self, peer: PeerId) -> None:
        outcome = await self._reached(peer)
        if peer in self._pool.links or self._closed:
            return  # by this call, or it called us meanwhile
        self._gave_up(peer, outcome.trouble)

    async def _reached(self, peer: PeerId) -> Outcome:
        """By itself, or through a neighbour where there is one and the peer does not answer for a while."""
        may_relay = bool(self._attempts.neighbours(peer))
        dialled, through = self._attempts.direct, self._attempts.through
        direct = await self._within(self._slots, dialled, peer, self._options.patience_s if may_relay else None)
        if direct is not None and (not direct.trouble or direct.met):
            return direct
        relayed = await self._within(self._asking, through, peer) if may_relay else None
        if relayed is not None and (not relayed.trouble or relayed.met):
            return relayed
        if direct is None and may_relay:
            direct = await self._within(self._slots, dialled, peer)  # it may be slow, or at another address
        outcome = direct or _SILENT
        return Outcome(f"{outcome.trouble}; {relayed.trouble}") if relayed is not None else outcome

    async def _tried(self, peer: PeerId) -> None:
        await self._within(self._trial, self._attempts.direct, peer)

    async def _within(
        self,
        slots: asyncio.Semaphore,
        attempt: Callable[[PeerId], Awaitable[Outcome]],
        peer: PeerId,
        most_s: float | None = None,
    ) -> Outcome | None:
        """What comes of it, when it is its turn; None: nothing in time."""
        try:
            async with slots, asyncio.timeout(most_s):
                return await attempt(peer)
        except TimeoutError:
            return None
