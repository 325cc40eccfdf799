"""What members send each other <-> bytes: bounded in bytes and in members, every field checked before it is used.

A message is a deterministic CBOR list ``[version, kind, ...]`` of at most `MAX_MESSAGE_BYTES`: one frame. Who sent it
is for the transport to say (TLS with the certificates of the mesh); what it says of members is in signed statements.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from fedmesh.errors import DecodeError
from fedmesh.identity.names import is_id
from fedmesh.mesh.membership.incarnations import LARGEST
from fedmesh.mesh.membership.statements import MAX_STATEMENT_BYTES, State
from fedmesh.wire import dumps, loads

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_ROWS",
    "PAGE_BYTES",
    "Ack",
    "Gossip",
    "Message",
    "Nack",
    "Ping",
    "PingReq",
    "Row",
    "States",
    "Summary",
    "decode",
    "encode",
]

VERSION = 1
MAX_MESSAGE_BYTES = 1 << 16
PAGE_BYTES = 24 << 10
"""So many bytes of statements stand in a message at most when a sender has more of them."""
MAX_ROWS = 512
MAX_STATEMENTS = 512
MAX_SEQUENCE = 1 << 32

Row = tuple[str, int, int]
"""Name, incarnation and state of a member, in somebody's view."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""

    sequence: int
    statements: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """I am; or from a helper: it is."""

    sequence: int
    statements: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class PingReq:
    """Ask `target` for me (SWIM 3.1)."""

    sequence: int
    target: str
    statements: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Nack:
    """I asked and heard nothing: but you and I can hear each other (Lifeguard IV-A)."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Gossip:
    """News."""

    statements: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """All that the sender knows of members whose names are above `after` and up to `until` (empty: to the end)."""

    after: str
    until: str
    rows: tuple[Row, ...]
    statements: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class States:
    """What the receiver of a summary knows better, and the names of whom it wants to know more."""

    statements: tuple[bytes, ...]
    wants: tuple[str, ...] = ()


Message = Ping | Ack | PingReq | Nack | Gossip | Summary | States
_KINDS: tuple[type[Message], ...] = (Ping, Ack, PingReq, Nack, Gossip, Summary, States)
_FIELDS = {kind: tuple(item.name for item in fields(kind)) for kind in _KINDS}
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


def encode(message: Message) -> bytes:
    """The bytes of a message; ``decode(encode(m)) == m``."""
    kind = type(message)
    values = [getattr(message, name) for name in _FIELDS[kind]]
    if isinstance(message, Summary):  # flat: a list in a list for each member would take most of the time to read
        values[_FIELDS[kind].index("rows")] = [item for row in message.rows for item in row]
    return dumps([VERSION, _NUMBERS[kind], *values])


def decode(data: bytes) -> Message:
    """The message in `data`. Raises: DecodeError: it is too long, none, or has a field that no sender would write."""
    plain = loads(data, max_bytes=MAX_MESSAGE_BYTES, max_depth=2, max_items=16 + 4 * MAX_ROWS)
    match plain:
        case [version, int(number), *values] if (
            version == VERSION and type(version) is int and type(number) is int and 0 <= number < len(_KINDS)
        ):
            kind = _KINDS[number]
        case _:
            raise DecodeError(f"{len(data)} bytes are not a message of the membership, version {VERSION}")
    names = _FIELDS[kind]
    if len(values) != len(names):
        raise DecodeError(f"a {kind.__name__} has {len(names)} parts, {len(values)} arrived")
    message: Message = kind(*[_READERS[name](name, value) for name, value in zip(names, values, strict=True)])
    return message


def _sequence(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_SEQUENCE:
        raise DecodeError(f"the {name} is no number from 0 to 2^32")
    return value


def _member(name: str, value: Any) -> str:
    if not isinstance(value, str) or not is_id(value):
        raise DecodeError(f"{name} is no member's name")
    return value


def _bound(name: str, value: Any) -> str:
    return "" if value == "" else _member(name, value)


def _list(name: str, value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise DecodeError(f"{name} is no list of at most {most}")
    return value


def _statements(name: str, value: Any) -> tuple[bytes, ...]:
    for raw in _list(name, value, MAX_STATEMENTS):
        if type(raw) is not bytes or len(raw) > MAX_STATEMENT_BYTES:
            raise DecodeError(f"one of the {name} is not bytes, or longer than {MAX_STATEMENT_BYTES}")
    return tuple(value)


def _wants(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_member(name, item) for item in _list(name, value, MAX_ROWS))


def _rows(name: str, value: Any) -> tuple[Row, ...]:
    items = _list(name, value, 3 * MAX_ROWS)
    rows = tuple(zip(items[::3], items[1::3], items[2::3], strict=False))
    if len(items) != 3 * len(rows):
        raise DecodeError(f"the {name} are not a name, an incarnation and a state each")
    for member, incarnation, state in rows:
        _member(name, member)
        if type(incarnation) is not int or not 0 < incarnation < LARGEST or type(state) is not int:
            raise DecodeError(f"the incarnation of one of the {name} is none")
        if state not in _STATES:
            raise DecodeError(f"{str(state)[:20]} is no state of one of the {name}")
    return rows


_STATES = frozenset(int(state) for state in State)
_READERS: dict[str, Callable[[str, Any], Any]] = {
    "sequence": _sequence,
    "target": _member,
    "statements": _statements,
    "after": _bound,
    "until": _bound,
    "rows": _rows,
    "wants": _wants,
}
