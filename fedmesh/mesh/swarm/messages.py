"""What neighbours send each other about models <-> bytes: bounded before they are decoded, every field checked.

A message is a deterministic CBOR list ``[version, kind, ...]`` of one chunk and a head at most. Who sent it is for the
transport to say; nothing in it is believed: metadata is verified by signatures, all else by its SHA-256.
"""

from dataclasses import astuple, dataclass
from typing import Any

from fedmesh.errors import DecodeError
from fedmesh.registry.limits import CHUNK_BYTES, LARGEST_CHUNK_BYTES
from fedmesh.registry.pointer import POINTER_BYTES
from fedmesh.wire import dumps, loads

__all__ = [
    "MAX_CHUNKS",
    "MAX_MESSAGE_BYTES",
    "PIECE_BYTES",
    "REFUSALS",
    "Announce",
    "Bits",
    "Cancel",
    "Message",
    "Piece",
    "Refusal",
    "Request",
    "decode",
    "encode",
]

VERSION = 1
PIECE_BYTES = LARGEST_CHUNK_BYTES
"""Of a small file at a time, at most; a chunk goes at once."""
MAX_MESSAGE_BYTES = PIECE_BYTES + 1024
MAX_CHUNKS = (1 << 32) // CHUNK_BYTES
MAX_NAME = 128
REFUSALS = ("unknown", "busy", "name", "range")
"""Not here; later; nothing that anybody may ask for; beyond the file's end."""
_LARGEST = 1 << 32
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Announce:
    """The newest metadata that the sender has verified: a `fedmesh.registry.Pointer`, encoded; empty: none."""

    pointer: bytes


@dataclass(frozen=True, slots=True)
class Bits:
    """Which chunks of a file the sender has: bit i of `mask` is chunk i of `count`.

    `wants`: it fetches the rest, and asks to be told what the receiver has, now and whenever that changes.
    """

    blob: bytes
    count: int
    mask: int
    wants: bool


@dataclass(frozen=True, slots=True)
class Request:
    """For `length` bytes of the file `name` from `offset` on; `number` is repeated in the answer."""

    number: int
    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The answer: some bytes of a file that has `size` in all."""

    number: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """The other answer, one of `REFUSALS`."""

    number: int
    code: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The answer is not needed any more."""

    number: int


Message = Announce | Bits | Request | Piece | Refusal | Cancel
_KINDS: tuple[type[Message], ...] = (Announce, Bits, Request, Piece, Refusal, Cancel)


def encode(message: Message) -> bytes:
    """The bytes of a message; ``decode(encode(m)) == m``."""
    values = list(astuple(message))
    if isinstance(message, Bits):
        values[2] = message.mask.to_bytes(-(-message.count // 8), "little")
    return dumps([VERSION, _KINDS.index(type(message)), *values])


def decode(data: bytes) -> Message:
    """The message in `data`. Raises: DecodeError: it is too long, none, or has a field that no sender would write."""
    plain = loads(data, max_bytes=MAX_MESSAGE_BYTES, max_depth=1, max_items=8)
    match plain:
        case [version, kind, *values] if type(version) is int and version == VERSION and type(kind) is int:
            pass
        case _:
            raise DecodeError(f"{len(data)} bytes are not a message about models, version {VERSION}")
    match kind, values:
        case 0, [bytes(pointer)] if len(pointer) <= POINTER_BYTES:
            return Announce(pointer)
        case 1, [bytes(blob), int(count), bytes(bits), bool(wants)] if len(blob) == _HASH_BYTES:
            return Bits(blob, _count(count), _mask(count, bits), wants)
        case 2, [int(number), str(name), int(offset), int(length)] if len(name) <= MAX_NAME:
            return Request(_number(number), name, _number(offset), _length(length))
        case 3, [int(number), int(size), bytes(piece)] if len(piece) <= PIECE_BYTES:
            return Piece(_number(number), _number(size), piece)
        case 4, [int(number), str(code)] if code in REFUSALS:
            return Refusal(_number(number), code)
        case 5, [int(number)]:
            return Cancel(_number(number))
        case _:
            raise DecodeError(f"a message of kind {str(kind)[:20]} has other parts, or longer ones")


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise DecodeError("a number is not from 0 to 2^32")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_CHUNKS:
        raise DecodeError(f"a file has 1 to {MAX_CHUNKS} chunks")
    return value


def _length(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= PIECE_BYTES:
        raise DecodeError(f"1 to {PIECE_BYTES} bytes can be asked for at a time")
    return value


def _mask(count: int, bits: bytes) -> int:
    mask = int.from_bytes(bits, "little")
    if len(bits) != -(-count // 8) or mask >> count:
        raise DecodeError(f"{len(bits)} bytes are not one bit for each of {count} chunks")
    return mask
