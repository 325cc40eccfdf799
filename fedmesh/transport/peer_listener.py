"""Who dials us: a bounded number of strangers, each with a deadline for its handshake.

asyncio's own server shows a connection only when its handshake is over, so how many there are before that, and from
where, would be for whoever dials to say. Here they are counted from the first packet on.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fedmesh.errors import ConfigError
from fedmesh.transport.framing import told
from fedmesh.transport.peer_link import PeerLink
from fedmesh.transport.peer_options import Address, PeerOptions
from fedmesh.transport.peer_pipe import Pipe
from fedmesh.transport.peer_tls import secured
from fedmesh.types import PeerId

__all__ = ["Listener"]

_BACKLOG = 64
_PAUSE_S = 0.1
_LAST_WORDS_S = 1.0


class Listener:
    """Accepts connections, and lets go of them when they are greeted or refused.

    Args:
        options: where, and how many.
        context: makes the TLS context of the next connection.
        made: a link for somebody who dialled, itself or through the neighbour that is named.
        count: told what was turned away, by reason.

    Attributes:
        addresses: where it listens.
    """

    def __init__(
        self,
        options: PeerOptions,
        *,
        context: Callable[[], ssl.SSLContext],
        made: Callable[[PeerId | None], PeerLink],
        count: Callable[[str], None],
    ) -> None:
        self.addresses: list[Address] = []
        self._options, self._context, self._made, self._count = options, context, made, count
        self._loop = asyncio.get_running_loop()
        self._strangers: Counter[str] = Counter()
        self._listening: list[socket.socket] = []
        self._accepted: set[socket.socket] = set()  # and not in the hands of asyncio yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Listens. Raises: ConfigError: it cannot, there."""
        try:
            for host, port in self._options.listen:
                for opened in await self._opened(host, port):
                    self._listening.append(opened)
                    self.addresses.append(opened.getsockname()[:2])
        except OSError as error:
            self._close()
            raise ConfigError(f"cannot listen at {host}:{port}: {told(error)}") from error
        for opened in self._listening:
            self._loop.add_reader(opened, self._accept, opened)

    async def aclose(self) -> None:
        """Nobody is let in any more; who was not greeted yet is hung up on."""
        self._close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for opened in self._accepted:
            opened.close()

    def _close(self) -> None:
        for pause in self._pauses.values():
            pause.cancel()
        for opened in self._listening:
            self._loop.remove_reader(opened)
            opened.close()
        self._listening.clear()

    async def _opened(self, host: str, port: int) -> list[socket.socket]:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        opened = []
        for family, _, _, _, address in found:
            one = socket.create_server(address, family=family, backlog=_BACKLOG)
            one.setblocking(False)
            opened.append(one)
        return opened

    def _accept(self, listening: socket.socket) -> None:
        """Somebody dials. Not `sock_accept`: it loses, and never closes, who comes while it is cancelled."""
        try:
            opened, remote = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it hung up at once
            return
        except OSError:  # no descriptors are left
            self._count("accept_failed")
            self._loop.remove_reader(listening)
            self._pauses[listening] = self._loop.call_later(
                _PAUSE_S, self._loop.add_reader, listening, self._accept, listening
            )
            return
        opened.setblocking(False)
        if address := self._admitted(_subscriber(str(remote[0]))):
            self._accepted.add(opened)
            self._begin(self._greet(opened, address))
        else:
            opened.close()

    def relayed(self, pipe: Pipe, via: PeerId) -> bool:
        """Somebody calls through a neighbour, a stranger as any, from there; returns whether it is greeted."""
        if not (address := self._admitted(f"through {via}")):
            return False
        self._begin(self._greet_relayed(pipe, address, via))
        return True

    def _admitted(self, address: str) -> str:
        """`address`, where one more stranger may come from there."""
        strangers = self._strangers
        if strangers.total() >= self._options.strangers or strangers[address] >= self._options.per_address:
            self._count("flood")
            return ""
        strangers[address] += 1
        return address

    async def _greet_relayed(self, pipe: Pipe, address: str, via: PeerId) -> None:
        try:
            opened = await pipe.open()
        except BaseException as error:
            self._forget(address)
            pipe.close()
            if isinstance(error, OSError):
                self._count("accept_failed")
                return
            raise
        self._accepted.add(opened)
        await self._greet(opened, address, via)

    async def _greet(self, opened: socket.socket, address: str, via: PeerId | None = None) -> None:
        link = self._made(via)
        self._accepted.discard(opened)
        try:
            context = self._context()
            await secured(lambda: link, opened, context, server=True, handshake_s=self._options.handshake_s)
            if await asyncio.shield(link.settled):
                await asyncio.wait([link.lost], timeout=2 * _LAST_WORDS_S)  # until then it counts
        except ConfigError:  # a file of ours is damaged
            self._count("certificate")
            opened.close()
        except OSError as error:  # ssl.SSLError is one, and so is a handshake that took too long
            self._count(_reason(error))
        finally:
            if not link.is_live:
                link.abort("closed")
            self._forget(address)

    def _forget(self, address: str) -> None:
        self._strangers[address] -= 1
        self._strangers += Counter()  # forgets those of whom there are none

    def _begin(self, what: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _subscriber(address: str) -> str:
    """Who counts as one: an IPv4 address, or the 64 bits of an IPv6 address that a subscriber is given."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "refused_authority"
    if isinstance(error, ssl.SSLError) and error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no_certificate"
    return "slow" if isinstance(error, TimeoutError) else "handshake"
