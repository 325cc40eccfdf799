"""One TLS connection to one peer, from after its handshake to its end: greetings, frames, deadlines.

A handshake that went well says little: in TLS 1.3 the dialler is through before the other end has looked at its
certificate. So each end compares the certificate with who it wants (`Pool.identify`), the dialler says hello, and there
is a connection when the other end has answered.
"""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from fedmesh.errors import DecodeError, IdentityError
from fedmesh.identity import Peer
from fedmesh.transport.frames import Data
from fedmesh.transport.peer_tls import TlsStream
from fedmesh.transport.peer_wire import CIRCUIT_KINDS, Answer, Cutter, Hello, Kind, code_in, head_of
from fedmesh.types import PeerId

__all__ = ["Owner", "PeerLink"]

_JOINED_BYTES = 16 << 10
_LAST_WORDS_S = 1.0


class Owner(Protocol):
    """Who has connections; all is called on the event loop."""

    run: bytes

    def identify(self, link: "PeerLink", leaf: bytes | None) -> Peer:
        """Whose certificate this is. Raises: IdentityError: not one that is let in, or not whom `link` dialled."""
        ...

    def admit(self, link: "PeerLink", hello: Hello) -> str:
        """Why somebody who dialled is not let in; empty: it is."""
        ...

    def adopt(self, link: "PeerLink") -> None:
        """There is a connection."""
        ...

    def received(self, link: "PeerLink", kind: Kind, body: Data) -> None:
        """A parcel, an announcement, or a frame about a circuit came."""
        ...

    def full(self, link: "PeerLink", *, full: bool) -> None:
        """Whether more waits to be written than should."""
        ...

    def ended(self, link: "PeerLink") -> None:
        """It is over."""
        ...

    def count(self, reason: str) -> None:
        """Something was refused or out of the ordinary."""
        ...


class PeerLink:
    """One connection.

    Args:
        dialled: who is expected at the other end; None: we were dialled.
        hello_s: how long greetings may take.
        via: the neighbour that relays it; None: nobody does.

    Attributes:
        peer: who is there, once its certificate was looked at; None before.
        run: the other end's process, once it was greeted. is_live: whether it is greeted, and not over.
        greets: whether our hello is under way.
        why: why it ended: a code of the other end's, or one of ours. it_left: whether the other end said goodbye.
        heard_at, used_at: when something came, and when something worth a connection was carried.
        opened_at: when the frame began that is not whole yet, or None. since: when it was made.
    """

    def __init__(self, owner: Owner, *, dialled: PeerId | None, hello_s: float, via: PeerId | None = None) -> None:
        self.dialled, self.via = dialled, via
        self.peer: Peer | None = None
        self.run = b""
        self.is_live = self.is_over = self.is_full = self.greets = self.it_left = False
        self.why = ""
        self._owner, self._hello_s = owner, hello_s
        self._loop = asyncio.get_running_loop()
        self.since = self.heard_at = self.used_at = self._loop.time()
        self.opened_at: float | None = None
        self.drained_at = self.since
        self._left_bytes = 0
        self._cutter = Cutter()
        self._transport: TlsStream | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.settled: asyncio.Future[str] = self._loop.create_future()
        """What came of it: empty, it is live; or why it is not."""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when nothing is left of it."""

    @property
    def name(self) -> PeerId:
        """Who is there. Its certificate was looked at."""
        assert self.peer is not None, "nobody is identified yet"
        return self.peer.name.id

    # What the stream calls.

    def connection_made(self, transport: TlsStream) -> None:
        """The handshake is over."""
        self._transport = transport
        if self.is_over:  # given up meanwhile
            self._transport.abort()
            return
        self._deadline = self._loop.call_later(self._hello_s, self.abort, "slow")
        tls = transport.get_extra_info("ssl_object")
        try:
            self.peer = self._owner.identify(self, tls.getpeercert(binary_form=True))
        except IdentityError as error:
            self._owner.count(f"refused_{error.code}")
            self._refuse(error.code)
            return
        if self.dialled is not None:
            self.greets = True
            self._write(Kind.HELLO, Hello(self.dialled, self._owner.run).to_bytes())

    def get_buffer(self) -> memoryview | None:
        """Where the rest of a frame goes; None: to `data_received`."""
        return None if self.is_over else self._cutter.rest

    def buffer_updated(self, size: int) -> None:
        """So much of the rest of a frame came."""
        self._came(self._cutter.filled(size))

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._came(self._cutter.cut(data))

    def _came(self, frames: Iterable[tuple[Kind, Data]]) -> None:
        if self.is_over:
            return
        self.heard_at = self._loop.time()
        whole = False
        try:
            for kind, body in frames:
                whole = True
                self._take(kind, body)
                if self.why:  # it ended with that frame
                    return
        except DecodeError:
            self._owner.count("malformed")
            self.abort("malformed")
            return
        if not self._cutter.is_open:
            self.opened_at = None
        elif self.opened_at is None or whole:
            self.opened_at = self.heard_at

    def pause_writing(self) -> None:
        """Too much waits to be written."""
        self.is_full = True
        self.drained_at, self._left_bytes = self._loop.time(), self.unwritten
        if self.is_live:
            self._owner.full(self, full=True)

    def resume_writing(self) -> None:
        """There is room again."""
        self.is_full = False
        if self.is_live:
            self._owner.full(self, full=False)

    def connection_lost(self, _error: Exception | None) -> None:
        """It is over, whoever ended it."""
        self._over(self.why or "lost")
        if not self.lost.done():
            self.lost.set_result(None)

    # What its owner calls.

    def send(self, kind: Kind, *parts: Data) -> None:
        """Writes a frame, which is in parts; the caller looks at `is_full` before."""
        self.used_at = self._loop.time()
        self._write(kind, *parts)

    def ping(self) -> None:
        """Asks whether the other end is there."""
        self._write(Kind.PING, b"")

    @property
    def unwritten(self) -> int:
        """Bytes that wait to be written."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def is_open(self) -> bool:
        """Whether there is a socket: until its last words are said, or nobody wants them."""
        return self._transport is not None and not self.lost.done()

    def stalled_s(self, now: float) -> float:
        """For how long nothing of what waits was written."""
        if not self.is_full or self.unwritten < self._left_bytes:
            self.drained_at, self._left_bytes = now, self.unwritten
        return now - self.drained_at

    def close(self, code: str) -> None:
        """Says goodbye, and ends it when that is written, or in a second."""
        if not self.is_live:
            self.abort(code)
            return
        self._write(Kind.BYE, code.encode())
        self._close(code)

    def abort(self, code: str) -> None:
        """Ends it now."""
        if self.is_over:
            return
        if code == "slow":
            self._owner.count("slow")
        if self._transport is not None:
            self._transport.abort()
        self._over(code)

    # The rest.

    def _take(self, kind: Kind, body: Data) -> None:
        if kind is Kind.PARCEL:
            self.used_at = self.heard_at
            self._owner.received(self, kind, body)
        else:
            self._take_other(kind, bytes(body))

    def _take_other(self, kind: Kind, body: bytes) -> None:
        match kind:
            case Kind.ANNOUNCEMENT:
                self.used_at = self.heard_at
                self._owner.received(self, kind, body)
            case kind if kind in CIRCUIT_KINDS:
                if self.via is not None:
                    raise DecodeError("a circuit is asked for over one that is relayed itself")
                self.used_at = self.heard_at
                self._owner.received(self, kind, body)
            case Kind.PING:
                if not self.is_full:
                    self._write(Kind.PONG, b"")
            case Kind.BYE:
                self.it_left = True
                self._close(code_in(body))
            case Kind.HELLO:
                self._greeted(Hello.from_bytes(body))
            case Kind.ANSWER:
                self._answered(Answer.from_bytes(body))

    def _greeted(self, hello: Hello) -> None:
        if self.dialled is not None:
            raise DecodeError("who was dialled said hello")
        code = self._owner.admit(self, hello)
        if code:
            self._refuse(code)
            return
        self._write(Kind.ANSWER, Answer("", self._owner.run).to_bytes())
        self._live(hello.run)

    def _answered(self, answer: Answer) -> None:
        if self.dialled is None:
            raise DecodeError("who dialled us answered")
        if answer.code:
            self._close(answer.code)
        else:
            self._live(answer.run)

    def _live(self, run: bytes) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.run, self._cutter.greeted, self.is_live, self.greets = run, True, True, False
        self._owner.adopt(self)
        if not self.settled.done():
            self.settled.set_result("")

    def _refuse(self, code: str) -> None:
        if self.dialled is None:
            self._write(Kind.ANSWER, Answer(code, self._owner.run).to_bytes())
        self._close(code)

    def _write(self, kind: Kind, *parts: Data) -> None:
        assert self._transport is not None, "written after it was made"
        first, *others = parts
        head = head_of(kind, sum(map(len, parts)))
        if len(first) <= _JOINED_BYTES:
            self._transport.writelines((head + bytes(first), *others))  # in one record of TLS
        else:
            self._transport.writelines((head, *parts))

    def _close(self, code: str) -> None:
        assert self._transport is not None, "closed after it was made"
        self._over(code)
        self._transport.close()
        self._loop.call_later(_LAST_WORDS_S, self._transport.abort)  # it may not read

    def _over(self, code: str) -> None:
        if self.is_over:
            return
        self.why, self.is_over = code, True
        if self._deadline is not None:
            self._deadline.cancel()
        if not self.settled.done():
            self.settled.set_result(code)
        was_live, self.is_live, self.greets = self.is_live, False, False
        if was_live:
            self._owner.ended(self)
