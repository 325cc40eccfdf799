"""uvicorn's connections, with two things that it leaves open: who is at the other end, and a head that never ends."""

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedmesh.errors import IdentityError

if TYPE_CHECKING:
    from fedmesh.inference.serving.peers import Guard

__all__ = ["Connection", "connections"]

_log = logging.getLogger(__name__)


class Connection(H11Protocol):
    """A connection whose peer `guard` admits, and on which a head has to be there within `head_s`."""

    guard: "Guard | None" = None
    head_s: float = 5.0
    _head: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: Any) -> None:
        """After the handshake, where there is one."""
        super().connection_made(transport)
        if self.guard is not None:
            tls = transport.get_extra_info("ssl_object")
            try:
                self.guard.admit(self, None if tls is None else tls.getpeercert(binary_form=True))
            except IdentityError as error:
                self._refuse(error)
                return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Nothing that a refused peer sends is looked at."""
        if self._refused:
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self._head is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """At either end's will."""
        self._forget_head()
        if self.guard is not None:
            self.guard.left(self)
        super().connection_lost(exc)

    def cut(self) -> None:
        """Ends the connection at once."""
        self.transport.abort()

    def _refuse(self, error: IdentityError) -> None:
        self._refused = True
        _log.warning("a peer is refused: %s", error)
        answer = {"got": f"a certificate that is refused ({error.code})", "wanted": "one of a member of this mesh"}
        body = json.dumps({**answer, "do": "renew it, or enrol: fedmesh enroll"}).encode()
        head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(self.head_s, self.cut)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def connections(guard: "Guard | None", head_s: float) -> type[Connection]:
    """`Connection` with these: uvicorn makes one for each that comes in."""
    return type("Connection", (Connection,), {"guard": guard, "head_s": head_s})
