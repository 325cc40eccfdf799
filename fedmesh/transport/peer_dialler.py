"""Calling peers: when something is to be sent to one, at the addresses that are said to be its, and again later.

An address is a hint from anywhere: who answers there is believed for its certificate alone.
"""

import asyncio
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from fedmesh.errors import ConfigError
from fedmesh.transport.backoff import Backoff
from fedmesh.transport.framing import told
from fedmesh.transport.peer_options import Address, PeerOptions
from fedmesh.transport.peer_pool import Pool
from fedmesh.transport.peer_tls import secured
from fedmesh.types import PeerId

__all__ = ["Dialler"]

_ADDRESSES = 8
"""Of one peer that are tried."""
_REMEMBERED = 1024


class Dialler:
    """Makes connections for a pool.

    Args:
        addresses: where a peer may be; called anew for each attempt.
        context: makes the TLS context of an attempt, with the certificate of then.
        failed: told that there is no way to a peer for now; `again` that it may be tried once more.
    """

    def __init__(
        self,
        pool: Pool,
        options: PeerOptions,
        *,
        addresses: Callable[[PeerId], Sequence[Address]],
        context: Callable[[], ssl.SSLContext],
        failed: Callable[[PeerId], None],
        again: Callable[[PeerId], None],
        chance: random.Random,
    ) -> None:
        self.trouble: dict[PeerId, str] = {}
        """What was wrong when a peer was last called."""
        self._pool, self._options, self._addresses, self._context = pool, options, addresses, context
        self._failed, self._again, self._chance = failed, again, chance
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(options.dials)
        self._calls: dict[PeerId, asyncio.Task[None]] = {}
        self._waits: dict[PeerId, asyncio.TimerHandle] = {}
        self._backoffs: dict[PeerId, Backoff] = {}
        self._closed = False

    def call(self, peer: PeerId) -> None:
        """Begins to make a connection, unless that is under way, or it is too early for another attempt."""
        if not (self._closed or peer in self._calls or peer in self._waits):
            task = self._loop.create_task(self._call(peer), name=f"dial-{peer}")
            self._calls[peer] = task
            task.add_done_callback(lambda done: self._over(peer, done))

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
        if not by_us and (call := self._calls.pop(peer, None)):
            call.cancel()
        self.trouble.pop(peer, None)
        if waiting := self._waits.pop(peer, None):
            waiting.cancel()

    def steady(self, peer: PeerId) -> None:
        """There was one for a good while: the next failure is the first."""
        self._backoffs.pop(peer, None)

    async def aclose(self) -> None:
        """Calls nobody any more."""
        self._closed = True
        for waiting in self._waits.values():
            waiting.cancel()
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _over(self, peer: PeerId, done: asyncio.Task[None]) -> None:
        if self._calls.get(peer) is done:
            del self._calls[peer]
        if not done.cancelled() and (error := done.exception()) is not None:  # `addresses` is somebody else's
            self._loop.call_exception_handler({"message": f"calling {peer} failed", "exception": error})
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

    async def _call(self, peer: PeerId) -> None:
        options = self._options
        async with self._slots:
            try:
                async with asyncio.timeout(2 * (options.connect_s + options.handshake_s + options.hello_s)):
                    trouble = await self._tried(peer)
            except TimeoutError:
                trouble = "none of its addresses answers"
        if peer in self._pool.links or self._closed:
            return  # by this call, or it called us meanwhile
        self._gave_up(peer, trouble)

    async def _tried(self, peer: PeerId) -> str:
        """Tries its addresses one after the other; returns what was wrong last, if all went wrong."""
        trouble = "it has no address that is known here"
        for host, port in list(self._addresses(peer))[:_ADDRESSES]:
            try:
                async with asyncio.timeout(self._options.connect_s):
                    found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, TimeoutError, UnicodeError) as error:  # a name that cannot be one is the last of these
                trouble = f"no host is called {host:.80}: {error}"
                continue
            for family, _, _, _, address in found[:_ADDRESSES]:
                if peer in self._pool.links:
                    return ""
                if not self._pool.has_room():
                    return "all connections are in use: raise connections"
                trouble = await self._dialled(peer, family, address)
                if not trouble:
                    return ""
        return trouble

    async def _opened(self, family: int, address: tuple[Any, ...]) -> socket.socket:
        """A TCP connection. asyncio's own race of addresses leaves sockets open when it is cancelled."""
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            async with asyncio.timeout(self._options.connect_s):
                await self._loop.sock_connect(opened, address)
        except BaseException:
            opened.close()
            raise
        return opened

    async def _dialled(self, peer: PeerId, family: int, address: tuple[Any, ...]) -> str:
        where = f"{address[0]}:{address[1]}"
        link = self._pool.link(peer)
        self._pool.dialling[peer] = link
        try:
            context = self._context()
            opened = await self._opened(family, address)  # who is dialled is said in the hello, to nobody else
            await secured(lambda: link, opened, context, server=False, handshake_s=self._options.handshake_s)
            why = await asyncio.shield(link.settled)
        except TimeoutError:
            return f"{where} does not answer"
        except ssl.SSLError as error:
            self._pool.count("refused_authority" if isinstance(error, ssl.SSLCertVerificationError) else "handshake")
            return f"the TLS handshake with {where} failed: {error.reason or error}"
        except OSError as error:
            return f"cannot connect to {where}: {told(error)}"
        except ConfigError as error:
            return str(error)
        finally:
            if self._pool.dialling.get(peer) is link:
                del self._pool.dialling[peer]
            if not link.is_live:
                link.abort("given up")
        if why == "lost":  # TLS 1.3: the first sign of a certificate that was refused
            self._pool.count("connection_refused")
            return f"{where} ended the connection without an answer: it refuses our certificate, or is no peer"
        return f"{where} is refused, or refuses us: {why}" if why else ""
