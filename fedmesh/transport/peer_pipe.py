"""An end of a relayed connection: between a circuit and a socket at whose other end TLS is spoken.

asyncio speaks TLS over sockets only, so there is a pair of them: one end is TLS's, as if it had been dialled or
accepted, the other one is this pipe's. It decides nothing and looks at nothing.
"""

import asyncio
import socket
from typing import cast

from fedmesh.transport.peer_circuits import Circuit
from fedmesh.transport.peer_wire import PIECE_BYTES, WINDOW_BYTES

__all__ = ["Pipe"]


class Pipe(asyncio.Protocol):
    """As `fedmesh.transport.peer_circuits.User`; make one with `open`.

    Attributes:
        lost: done when nothing is left of it.
        why: why the circuit ended, as the other end has said; empty: it did not, or not by the other end.
    """

    def __init__(self) -> None:
        self.why = ""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._circuit: Circuit | None = None
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._waiting = bytearray()
        self._owed = 0
        self._is_full = self._is_shut = False

    async def open(self) -> socket.socket:
        """The socket of who speaks TLS. Raises: OSError: there is no descriptor left."""
        theirs, ours = socket.socketpair()
        try:
            for each in (theirs, ours):
                each.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        except BaseException:
            theirs.close()
            ours.close()
            raise
        return theirs

    def join(self, circuit: Circuit) -> None:
        """From now on this is the circuit."""
        self._circuit = circuit
        self._pump()

    def close(self) -> None:
        """Nobody speaks TLS here."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self._over()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WINDOW_BYTES // 4)
        early, self._early = self._early, []
        for data in early:
            self.arrived(data)
        if self.why:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """TLS has something for the other end."""
        self._waiting += data
        self._pump()

    def eof_received(self) -> bool:
        """TLS is through; what waits is still sent."""
        self._is_shut = True
        self._pump()
        return bool(self._waiting)

    def pause_writing(self) -> None:
        """TLS reads slowly."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It has read."""
        self._is_full = False
        owed, self._owed = self._owed, 0
        if self._circuit is not None and owed:
            self._circuit.taken(owed)

    def connection_lost(self, _error: Exception | None) -> None:
        """There is nobody at the other end of the socket."""
        self._transport = None
        self._over()

    # What the circuit calls.

    def arrived(self, data: bytes) -> None:
        """As `User`."""
        if self._transport is None:
            self._early.append(data)  # no more than a window: nothing of it was taken
            return
        self._transport.write(data)
        if self._is_full:
            self._owed += len(data)
        elif self._circuit is not None:
            self._circuit.taken(len(data))

    def may_send(self) -> None:
        """As `User`."""
        self._pump()

    def ended(self, code: str) -> None:
        """As `User`."""
        self.why = code
        if self._transport is not None:
            self._transport.close()

    def _over(self) -> None:
        if self._circuit is not None:
            self._circuit.end("closed")
        if not self.lost.done():
            self.lost.set_result(None)

    def _pump(self) -> None:
        circuit, transport = self._circuit, self._transport
        if circuit is None or transport is None or circuit.is_over:
            return
        while self._waiting and circuit.credit:
            piece = bytes(self._waiting[: min(PIECE_BYTES, circuit.credit)])
            del self._waiting[: len(piece)]
            circuit.send(piece)
        if self._waiting:
            transport.pause_reading()
        elif self._is_shut:
            transport.close()
        else:
            transport.resume_reading()
