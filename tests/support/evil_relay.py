"""A member that relays, and does with what it carries what a test wants."""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

from peer_mesh import HOST, PeerMesh

from fedmesh.transport.peer_wire import Answer, Cutter, Hello, Kind, circuit_in, circuit_of, head_of
from fedmesh.transport.tls import accepting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Way = tuple["Neighbour", int]


class Neighbour:
    """A connection with an honest member."""

    def __init__(self, relay: "EvilRelay", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.relay, self.reader, self.writer = relay, reader, writer
        self.number = 0
        self.name = ""
        self.heard: list[tuple[Kind, bytes]] = []

    def say(self, kind: Kind, body: bytes) -> None:
        self.writer.write(head_of(kind, len(body)) + body)

    def begin(self) -> int:
        """Tells it that somebody calls; gives the circuit's number."""
        self.number += 2
        self.say(Kind.CALLED, circuit_of(self.number))
        return self.number

    async def serve(self) -> None:
        cutter = Cutter()
        leaf = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.name = self.relay.membership.check([leaf], expected=None, clock=time.time()).name.id
        while data := await self.reader.read(1 << 16):
            for kind, body in cutter.cut(data):
                if kind == Kind.HELLO:
                    assert Hello.from_bytes(body).to == self.relay.name
                    cutter.greeted = True
                    self.say(Kind.ANSWER, Answer("", b"evil-run").to_bytes())
                    self.relay.neighbours[self.name] = self
                elif kind == Kind.PING:
                    self.say(Kind.PONG, b"")
                else:
                    self.heard.append((kind, body))
                    self.relay.take(self, kind, body)


class EvilRelay:
    """Use as an asynchronous context.

    Attributes:
        bend: what is carried instead of a piece, of those who called or not.
        neighbours: by name. seen: everything that was carried, in pieces, with the name of who said it.
    """

    def __init__(self, mesh: PeerMesh, name: str) -> None:
        self.name, self.membership, self._mesh = name, mesh.member(name), mesh
        self.neighbours: dict[str, Neighbour] = {}
        self.bend: Callable[[bytes, bool], Iterable[bytes]] = lambda piece, _up: [piece]
        self.seen: list[tuple[str, bytes]] = []
        self.carries = True
        self._ways: dict[Way, tuple[Way, bool]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        context = accepting(self.membership.tls_path, self.membership.root_path, required=True, times=False)
        self._server = await asyncio.start_server(self._serve, HOST, 0, ssl=context)
        self._mesh.addresses[self.name] = [self._server.sockets[0].getsockname()[:2]]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for neighbour in self.neighbours.values():
            neighbour.writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while getattr(self._server, "_active_count", 0):  # whoever was in the midst of a handshake
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await Neighbour(self, reader, writer).serve()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    def take(self, source: Neighbour, kind: Kind, body: bytes) -> None:
        if kind not in {Kind.CALL, Kind.DATA, Kind.CREDIT, Kind.END} or not self.carries:
            return
        number, rest = circuit_in(body)
        if kind == Kind.CALL:
            called = self.neighbours[rest.decode()]
            back = called, called.begin()
            self._ways[source, number] = back, True
            self._ways[back] = (source, number), False
            return
        if (source, number) not in self._ways:
            return
        (sink, there), up = self._ways[source, number]
        if kind != Kind.DATA:
            sink.say(kind, circuit_of(there, rest))
            return
        self.seen.append((source.name, rest))
        for piece in self.bend(rest, up):
            sink.say(Kind.DATA, circuit_of(there, piece))

    def end(self) -> None:
        """Ends all circuits, at both ends."""
        for neighbour, number in self._ways:
            neighbour.say(Kind.END, circuit_of(number, b"over"))
        self._ways.clear()
