"""TLS over asyncio's TCP, for many connections that are mostly idle, or busy with long frames.

What asyncio has for it keeps 256 KB for each connection, copies each byte once more, and does not say what of it the
system has not taken yet. Here all connections of an event loop share two buffers, for it reads into one at a time;
`TlsStream.get_write_buffer_size` counts all that waits in this process, and little waits in the system's.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

__all__ = ["TlsStream", "secured"]

_READ_BYTES = 64 << 10
_RECORD_BYTES = 16 << 10
_WRITE_BYTES = 64 << 10
"""Encrypted at a time, and waiting encrypted, at most: it is still in the cache. The user pauses while more waits."""
_UNSENT_BYTES = 128 << 10
"""What the system keeps beyond what is under way: more would only wait there, before whatever is said next."""
_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Python 3.12 has the name
_AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)

_of_thread = threading.local()


def _buffers() -> tuple[memoryview, memoryview]:
    """For what is read and for what was decrypted: one event loop runs in a thread, and reads into one at a time."""
    if not hasattr(_of_thread, "buffers"):
        _of_thread.buffers = memoryview(bytearray(_READ_BYTES)), memoryview(bytearray(_RECORD_BYTES))
    found: tuple[memoryview, memoryview] = _of_thread.buffers
    return found


class User(Protocol):
    """Who is told, once the handshake is over; as asyncio's protocols."""

    def connection_made(self, transport: "TlsStream") -> None:
        """The handshake is over."""
        ...

    def get_buffer(self) -> memoryview | None:
        """Where what comes next goes, if not to `data_received`."""
        ...

    def buffer_updated(self, size: int) -> None:
        """So much was put there."""
        ...

    def data_received(self, data: bytes) -> None:
        """Bytes came, at most a record of TLS."""
        ...

    def pause_writing(self) -> None:
        """More waits than should."""
        ...

    def resume_writing(self) -> None:
        """There is room again."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """It is over."""
        ...


async def secured(
    make: Callable[[], User], opened: socket.socket, context: ssl.SSLContext, *, server: bool, handshake_s: float
) -> None:
    """Shakes hands over a connected socket, which is closed if that fails; the user has been told when it returns.

    Raises:
        OSError: the handshake failed (`ssl.SSLError`), the other end hung up, or it took too long (TimeoutError).
    """
    loop = asyncio.get_running_loop()
    stream = TlsStream(make(), context, server=server)
    if server:
        await loop.connect_accepted_socket(lambda: stream, opened)
    else:
        await loop.create_connection(lambda: stream, sock=opened)
    try:
        async with asyncio.timeout(handshake_s):
            await asyncio.shield(stream.ready)
    except BaseException:
        stream.give_up()
        raise


class TlsStream(asyncio.BufferedProtocol):
    """One connection: a protocol to asyncio's transport, and the transport of its user.

    Attributes:
        ready: done when the handshake is; or what was wrong with it.
    """

    def __init__(self, user: User, context: ssl.SSLContext, *, server: bool) -> None:
        self._user = user
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._into: Callable[[int, memoryview], int] = cast("Any", self._tls).read
        self._encrypted, self._decrypted = _buffers()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._is_made = self._is_stuck = self._is_paused = self._is_closing = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a TCP connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BYTES, low=_WRITE_BYTES // 4)
        opened = transport.get_extra_info("socket")
        if opened.family in (socket.AF_INET, socket.AF_INET6):  # else it is relayed, over a pair of sockets
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):  # not every system has it; there the system keeps as much as it likes
                opened.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _UNSENT_BYTES)
        self._shake()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where asyncio puts what it reads; it is emptied before anybody else reads."""
        return self._encrypted

    def buffer_updated(self, nbytes: int) -> None:
        """Something came."""
        self._incoming.write(self._encrypted[:nbytes])
        if self._is_made:
            self._read()
        else:
            self._shake()

    def eof_received(self) -> bool:
        """The other end says no more; asyncio closes."""
        return False

    def pause_writing(self) -> None:
        """The system takes no more."""
        self._is_stuck = True

    def resume_writing(self) -> None:
        """The system has taken most of it."""
        self._is_stuck = False
        self._write()

    def connection_lost(self, error: Exception | None) -> None:
        """It is over."""
        self._is_closing = True
        self._forget()
        if self._is_made:
            self._user.connection_lost(error)
        elif not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("the other end hung up in the handshake"))
            self.ready.exception()  # nobody may wait any more

    # What its user calls: as asyncio's transports.

    def write(self, data: bytes | memoryview) -> None:
        """Sends; what cannot leave yet waits."""
        self.writelines((data,))

    def writelines(self, parts: Iterable[bytes | memoryview]) -> None:
        """As `write`, one after the other."""
        if self._is_closing:
            return
        for data in parts:
            if data:
                self._waiting.append(memoryview(data))
                self._waiting_bytes += len(data)
        self._write()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait in this process."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._waiting_bytes + waiting

    def get_extra_info(self, name: str) -> Any:
        """As asyncio's, and ``ssl_object``."""
        if name == "ssl_object":
            return self._tls
        return None if self._transport is None else self._transport.get_extra_info(name)

    def pause_reading(self) -> None:
        """Nothing is read from now on."""
        if self._transport is not None:
            self._transport.pause_reading()

    def is_closing(self) -> bool:
        """Whether nothing is sent any more."""
        return self._is_closing

    def close(self) -> None:
        """Says goodbye behind what waits; it is over when the other end has, too: `abort` if that takes too long."""
        if not self._is_closing:
            self._is_closing = True
            self._write()

    def abort(self) -> None:
        """Ends it now."""
        self._is_closing = True
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """Nobody waits for the handshake any more."""
        if not self.ready.done():
            self.ready.cancel()
        if self._is_made or self.ready.cancelled():
            self.abort()  # else it has ended, and what it said of that is on its way

    # The rest.

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except _AGAIN:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the other end is told why
            if not self.ready.done():
                self.ready.set_exception(error)
                self.ready.exception()
            assert self._transport is not None, "it has begun"
            self._transport.close()
            return
        self._flush()
        if self.ready.done():  # given up
            self.abort()
            return
        self._is_made = True
        self._user.connection_made(self)
        self.ready.set_result(None)
        self._read()

    def _read(self) -> None:
        """Gives what came to the user."""
        tls, incoming, user = self._tls, self._incoming, self._user
        try:
            while incoming.pending or tls.pending():  # else all that TLS would do is raise that it wants more
                room = user.get_buffer()
                size = self._into(_RECORD_BYTES, self._decrypted) if room is None else self._into(len(room), room)
                if not size:
                    self._hung_up()
                    return
                if room is None:
                    user.data_received(bytes(self._decrypted[:size]))
                else:
                    user.buffer_updated(size)
        except ssl.SSLZeroReturnError:
            self._hung_up()
            return
        except _AGAIN:
            pass
        except ssl.SSLError:  # altered, cut, or an alert: TLS says no more
            self.abort()
            return
        self._flush()  # an answer of TLS itself
        if self._waiting and not self._is_stuck:
            self._write()

    def _hung_up(self) -> None:
        """The other end said that nothing more comes."""
        if not self._is_closing:
            self.close()
        if self._transport is not None:
            self._transport.close()  # when all of ours is written

    def _write(self) -> None:
        """Encrypts what waits as far as the system takes it, and says so to the user."""
        transport = self._transport
        assert transport is not None, "written after it was made"
        while self._waiting and not self._is_stuck:
            first = self._waiting[0]
            part = first[:_WRITE_BYTES]
            try:
                done = self._tls.write(part)
            except _AGAIN:
                break
            except ssl.SSLError:  # it was ended
                self.abort()
                return
            self._waiting_bytes -= done
            if done == len(first):
                self._waiting.popleft()
            else:
                self._waiting[0] = first[done:]
            if self._outgoing.pending >= _WRITE_BYTES:
                self._flush()
        self._flush()
        if self._is_closing:
            if not self._waiting:
                self._say_goodbye()
            return
        is_full = self._is_stuck or bool(self._waiting)  # what is stuck is let go by asyncio, or the connection ends
        if is_full is not self._is_paused:
            self._is_paused = is_full
            if is_full:
                self._user.pause_writing()
            else:
                self._user.resume_writing()

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # it waits for the other end's goodbye, or that one has said it
            self._tls.unwrap()
        self._flush()

    def _forget(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
