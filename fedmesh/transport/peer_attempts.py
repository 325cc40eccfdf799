"""Making one connection: at the addresses that a peer is said to have, or through a neighbour.

An address is a hint from anywhere: who answers there is believed for its certificate alone. And a neighbour that relays
is asked for bytes, not for who the peer is: what it carries is TLS from end to end (`fedmesh.transport.peer_relay`).
"""

import asyncio
import functools
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedmesh.errors import ConfigError
from fedmesh.transport.framing import told
from fedmesh.transport.peer_circuits import Circuits
from fedmesh.transport.peer_link import PeerLink
from fedmesh.transport.peer_options import Address, PeerOptions
from fedmesh.transport.peer_pipe import Pipe
from fedmesh.transport.peer_pool import Pool
from fedmesh.transport.peer_tls import secured
from fedmesh.transport.peer_wire import Kind
from fedmesh.types import PeerId

__all__ = ["Attempts", "Outcome"]

Opening = Callable[[], Awaitable[socket.socket]]
_ADDRESSES = 8
"""Of one peer that are tried."""
_NEIGHBOURS = 16
"""That are asked to relay to one peer, one after the other."""
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt.

    Attributes:
        trouble: what was wrong last; empty: there is a connection.
        met: whether the peer itself was there, and it or we refused: no other way leads further.
    """

    trouble: str
    met: bool = False


class Attempts:
    """Makes connections for a pool.

    Args:
        addresses: where a peer may be; called anew for each attempt.
        context: makes the TLS context of an attempt, with the certificate of then.
        piped: makes a pipe.
    """

    def __init__(
        self,
        pool: Pool,
        options: PeerOptions,
        circuits: Circuits,
        *,
        addresses: Callable[[PeerId], Sequence[Address]],
        context: Callable[[], ssl.SSLContext],
        piped: Callable[[], Pipe],
        chance: random.Random,
    ) -> None:
        self._pool, self._options, self._circuits, self._addresses = pool, options, circuits, addresses
        self._context, self._piped, self._chance = context, piped, chance
        self._loop = asyncio.get_running_loop()
        self._last: dict[PeerId, PeerId] = {}

    def neighbours(self, peer: PeerId) -> list[PeerId]:
        """Who might relay to `peer`: any with whom there is a direct connection; who did it last comes last."""
        found = [name for name, link in self._pool.links.items() if link.via is None and name != peer]
        self._chance.shuffle(found)
        found.sort(key=lambda name: name == self._last.get(peer))
        return found[:_NEIGHBOURS]

    async def direct(self, peer: PeerId) -> Outcome:
        """Tries its addresses one after the other. Raises: TimeoutError: it took too long."""
        options = self._options
        async with asyncio.timeout(2 * (options.connect_s + options.handshake_s + options.hello_s)):
            return await self._tried(peer)

    async def through(self, peer: PeerId) -> Outcome:
        """Asks neighbours to relay, one after the other. Raises: TimeoutError: it took too long."""
        options = self._options
        async with asyncio.timeout(options.connect_s + options.handshake_s + options.hello_s):
            return await self._asked(peer)

    async def _asked(self, peer: PeerId) -> Outcome:
        outcome = Outcome("no neighbour is there to relay")
        for neighbour in self.neighbours(peer):
            if peer in self._pool.links:
                return Outcome("")
            if not self._pool.has_room():
                return Outcome("all connections are in use: raise connections")
            outcome = await self._relayed(peer, neighbour)
            if not outcome.trouble or outcome.met:
                break
        return outcome

    async def _tried(self, peer: PeerId) -> Outcome:
        outcome = Outcome("it has no address that is known here")
        for host, port in list(self._addresses(peer))[:_ADDRESSES]:
            try:
                async with asyncio.timeout(self._options.connect_s):
                    found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, TimeoutError, UnicodeError) as error:  # a name that cannot be one is the last of these
                outcome = Outcome(f"no host is called {host:.80}: {error}")
                continue
            for family, _, _, _, address in found[:_ADDRESSES]:
                if self._pool.is_direct(peer):
                    return Outcome("")
                if peer not in self._pool.links and not self._pool.has_room():
                    return Outcome("all connections are in use: raise connections")
                outcome = await self._dialled(peer, family, address)
                if not outcome.trouble:
                    return outcome
        return outcome

    async def _dialled(self, peer: PeerId, family: int, address: tuple[Any, ...]) -> Outcome:
        where = f"{address[0]}:{address[1]}"
        return await self._made(self._pool.link(peer), peer, where, functools.partial(self._opened, family, address))

    async def _relayed(self, peer: PeerId, neighbour: PeerId) -> Outcome:
        pipe = self._piped()
        link = self._pool.link(peer, via=neighbour)
        joined = functools.partial(self._joined, pipe, peer, neighbour)
        outcome = await self._made(link, peer, f"the peer through {neighbour}", joined)
        if not outcome.trouble:
            while len(self._last) >= _REMEMBERED:
                del self._last[next(iter(self._last))]
            self._last[peer] = neighbour
            return outcome
        pipe.close()
        if pipe.why and not outcome.met:
            return Outcome(f"{neighbour} does not relay to it: {pipe.why}")
        return outcome

    async def _joined(self, pipe: Pipe, peer: PeerId, neighbour: PeerId) -> socket.socket:
        opened = await pipe.open()
        carrying = self._pool.links.get(neighbour)
        if carrying is None:  # it went meanwhile
            opened.close()
            raise ConnectionError("it is not connected any more")
        circuit = self._circuits.begin(carrying, Kind.CALL, peer.encode())
        circuit.user = pipe
        pipe.join(circuit)
        return opened

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

    async def _made(self, link: PeerLink, peer: PeerId, where: str, opening: Opening) -> Outcome:
        """Speaks TLS over what is opened, and greets."""
        self._pool.dialling[peer] = link
        try:
            context = self._context()
            opened = await opening()  # who is dialled is said in the hello, and not to whoever listens
            await secured(lambda: link, opened, context, server=False, handshake_s=self._options.handshake_s)
            why = await asyncio.shield(link.settled)
        except TimeoutError:
            return Outcome(f"{where} does not answer", link.peer is not None)
        except ssl.SSLError as error:
            self._pool.count("refused_authority" if isinstance(error, ssl.SSLCertVerificationError) else "handshake")
            return Outcome(f"the TLS handshake with {where} failed: {error.reason or error}")
        except OSError as error:
            return Outcome(f"cannot connect to {where}: {told(error)}")
        except ConfigError as error:
            return Outcome(str(error), met=True)
        finally:
            if self._pool.dialling.get(peer) is link:
                del self._pool.dialling[peer]
            if not link.is_live:
                link.abort("given up")
        if why == "lost":  # TLS 1.3: the first sign of a certificate that was refused
            self._pool.count("connection_refused")
            return Outcome(f"{where} ended the connection without an answer: it refuses our certificate, or is no peer")
        return Outcome(f"{where} is refused, or refuses us: {why}" if why else "", link.peer is not None)
