"""Streams of bytes inside connections with neighbours: what a relayed connection is made of, hop by hop.

A circuit is a stream both ways on one connection, with a number and a window. Who calls begins one on its connection
with the relay, the relay begins another with who is called, and passes on (`fedmesh.transport.peer_relay`).
Nothing here knows what is in it: at its ends TLS is spoken, as over any other way (`fedmesh.transport.peer_pipe`).

Bounded by the receiver: no more than `WINDOW_BYTES` arrive that were not taken, or the connection is given up.
"""

from collections.abc import Callable
from typing import Protocol

from fedmesh.errors import DecodeError
from fedmesh.transport.peer_link import PeerLink
from fedmesh.transport.peer_wire import WINDOW_BYTES, Kind, called_in, circuit_in, circuit_of, code_in, credit_in
from fedmesh.types import PeerId

__all__ = ["Circuit", "Circuits", "User"]

_MOST = 1 << 30
"""Circuits that one connection ever has; another connection begins anew."""


class User(Protocol):
    """What a circuit is used by."""

    def arrived(self, data: bytes) -> None:
        """These came; `Circuit.taken` is to be said when there is room for as many again."""
        ...

    def may_send(self) -> None:
        """`Circuit.credit` has grown."""
        ...

    def ended(self, code: str) -> None:
        """It is over: by the other end, or with its connection. Not called when it was ended here."""
        ...


class Circuit:
    """One, at one end of one connection.

    Attributes:
        link: the connection. credit: bytes that may be sent now. is_over: whether it ended.
    """

    def __init__(self, link: PeerLink, number: int, ended: Callable[["Circuit"], None]) -> None:
        self.link, self.number, self.credit, self.is_over = link, number, WINDOW_BYTES, False
        self.user: User | None = None
        self._ended, self._room, self._taken = ended, WINDOW_BYTES, 0

    def send(self, data: bytes) -> None:
        """Sends up to `credit` bytes, and no more than a piece."""
        assert len(data) <= self.credit, "who sends looks at the credit before"
        if not self.is_over:
            self.credit -= len(data)
            self.link.send(Kind.DATA, circuit_of(self.number, data))

    def taken(self, size: int) -> None:
        """There is room for so many bytes again."""
        self._taken += size
        if self._taken >= WINDOW_BYTES // 4 and not self.is_over:
            self._room += self._taken
            self.link.send(Kind.CREDIT, circuit_of(self.number, self._taken.to_bytes(4, "big")))
            self._taken = 0

    def end(self, code: str) -> None:
        """It is over; the other end is told."""
        if not self.is_over:
            self.link.send(Kind.END, circuit_of(self.number, code.encode()))
            self._over()

    def hear(self, kind: Kind, rest: bytes) -> None:
        """Raises: DecodeError: the other end does not keep to the window."""
        assert self.user is not None, "given with the circuit"
        if kind == Kind.DATA:
            self._room -= len(rest)
            if self._room < 0:
                raise DecodeError(f"more came on a circuit than the {WINDOW_BYTES} bytes that there is room for")
            self.user.arrived(rest)
        elif kind == Kind.CREDIT:
            self.credit += credit_in(rest)
            if self.credit > WINDOW_BYTES:
                raise DecodeError("more was taken from a circuit than was sent")
            self.user.may_send()
        else:
            self.fall(code_in(rest))

    def fall(self, code: str) -> None:
        """It ended, not by us."""
        if not self.is_over:
            self._over()
            if self.user is not None:
                self.user.ended(code)

    def _over(self) -> None:
        self.is_over = True
        self._ended(self)


class _Table:
    """The circuits of one connection. Its dialler begins those with odd numbers."""

    def __init__(self, link: PeerLink) -> None:
        self.circuits: dict[int, Circuit] = {}
        self.own = 1 if link.dialled is not None else 2
        self.theirs = 3 - self.own
        """The lowest number that the other end may use next."""


class Circuits:
    """Those of one party.

    Args:
        asked: told of a circuit that a neighbour has begun, and with whom it wants to speak; gives it a user, or ends
            it. called: told of one on which somebody wants to speak with us.
    """

    def __init__(self, *, asked: Callable[[Circuit, PeerId], None], called: Callable[[Circuit], None]) -> None:
        self._asked, self._called = asked, called
        self._tables: dict[PeerLink, _Table] = {}

    def begin(self, link: PeerLink, kind: Kind, rest: bytes = b"") -> Circuit:
        """A circuit on `link`, with a `CALL` for somebody or `CALLED`. Its user is to be set at once."""
        table = self._table(link)
        circuit = self._made(table, link, table.own)
        table.own += 2
        link.send(kind, circuit_of(circuit.number, rest))
        return circuit

    def received(self, link: PeerLink, kind: Kind, body: bytes) -> None:
        """A frame about a circuit came. Raises: DecodeError: it is none, or breaks the rules."""
        number, rest = circuit_in(body)
        table = self._table(link)
        if kind not in {Kind.CALL, Kind.CALLED}:
            if circuit := table.circuits.get(number):  # others crossed an end
                circuit.hear(kind, rest)
            return
        if number < table.theirs or number % 2 != table.theirs % 2 or number > _MOST:
            raise DecodeError(f"a circuit begins with number {number}, {table.theirs} was to come")
        name = called_in(rest) if kind == Kind.CALL else ""
        table.theirs = number + 2
        circuit = self._made(table, link, number)
        if kind == Kind.CALL:
            self._asked(circuit, name)
        else:
            self._called(circuit)

    def over(self, link: PeerLink) -> None:
        """This connection ended, and with it what is on it."""
        if table := self._tables.pop(link, None):
            for circuit in list(table.circuits.values()):
                circuit.fall("lost")

    def _table(self, link: PeerLink) -> _Table:
        return self._tables.setdefault(link, _Table(link))

    def _made(self, table: _Table, link: PeerLink, number: int) -> Circuit:
        def ended(circuit: Circuit) -> None:
            del table.circuits[circuit.number]

        circuit = table.circuits[number] = Circuit(link, number, ended)
        return circuit
