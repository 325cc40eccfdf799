"""Names of hosts, asked for anew each time: in a thread, with a deadline, and a few at once."""

import asyncio
import socket
from typing import Any

from fedmesh.errors import PeerError
from fedmesh.mesh.discovery.addresses import Address, is_numeric

__all__ = ["Resolver"]

_MOST = 4


class Resolver:
    """Asks the system.

    Args:
        timeout_s: how long one answer is waited for.
        at_once: questions that are out; one that nobody waits for any more counts until the system gives up.
    """

    def __init__(self, *, timeout_s: float = 5.0, at_once: int = 2) -> None:
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(at_once)

    async def resolve(self, address: Address) -> list[Address]:
        """The numeric addresses of a host, four at most; a numeric one is its own.

        Raises:
            PeerError: there is no such host, or nobody says so in time.
        """
        host, port = address
        if is_numeric(host):
            return [address]
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
                loop = asyncio.get_running_loop()
                asked = loop.create_task(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
                asked.add_done_callback(self._answered)
                found = await asyncio.shield(asked)
        except TimeoutError as error:
            raise PeerError(f"nobody says within {self._timeout_s:g} s where {host:.80} is") from error
        except (OSError, UnicodeError) as error:
            raise PeerError(f"no host is called {host:.80}: {error}") from error
        return list(dict.fromkeys((str(entry[4][0]), port) for entry in found))[:_MOST]

    def _answered(self, asked: "asyncio.Task[Any]") -> None:
        self._free.release()
        if not asked.cancelled():
            asked.exception()  # nobody may be waiting for it
