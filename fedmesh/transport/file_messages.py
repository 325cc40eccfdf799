"""What is said about files: a request for a piece of one, and its answer; and which names files can have.

Deterministic CBOR: a request is ``[1, number, name, offset, length, digest]``, an answer ``[1, number, code, size,
digest, data]``. The digest is the SHA-256 of the whole file: empty in a request for the first piece, and then that of
the answer to it, so that pieces of two versions are never put together.
"""

import re
from dataclasses import astuple, dataclass
from typing import Any

from fedmesh.errors import DecodeError
from fedmesh.wire import dumps, loads

__all__ = ["FILE_CODES", "MAX_NAME", "PIECE_BYTES", "Answer", "Request", "is_file_name"]

PIECE_BYTES = 256 * 1024
"""Longest piece; a chunk of a model is one."""
MAX_NAME = 255
FILE_CODES = ("", "unknown", "name", "range", "too-large", "changed", "busy", "failed")
"""What an answer says: empty is the piece; ``busy`` later, ``changed`` from the beginning, the others never."""

_VERSION = 1
_LARGEST = 1 << 62
_DIGEST_BYTES = 32
_OVERHEAD = 1024
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Request:
    """For at most `length` bytes of the file `name` from `offset` on. `number` is repeated in the answer."""

    number: int
    name: str
    offset: int
    length: int
    digest: bytes = b""

    def to_bytes(self) -> bytes:
        """The message."""
        return dumps([_VERSION, *astuple(self)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Request":
        """The request in `data`. Raises: DecodeError: it is none, or its name is too long to look at."""
        match _parts(data):
            case [int(number), str(name), int(offset), int(length), bytes(digest)]:
                request = cls(_number(number), name, _number(offset), _number(length), _digest(digest, empty=True))
                if len(name) > MAX_NAME:
                    raise DecodeError(f"a name of {len(name)} characters, the limit is {MAX_NAME}")
                return request
            case _:
                raise DecodeError("these bytes are not a request for a file")


@dataclass(frozen=True, slots=True)
class Answer:
    """To request `number`: why not (`code`), or a piece, and length and SHA-256 of the whole."""

    number: int
    code: str = ""
    size: int = 0
    digest: bytes = b""
    data: bytes = b""

    def to_bytes(self) -> bytes:
        """The message."""
        return dumps([_VERSION, *astuple(self)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """The answer in `data`. Raises: DecodeError: it is none."""
        match _parts(data):
            case [int(number), str(code), int(size), bytes(digest), bytes(piece)]:
                if code not in FILE_CODES or len(piece) > PIECE_BYTES:
                    raise DecodeError(f"an answer says {code[:20]!r} and has {len(piece)} bytes")
                return cls(_number(number), code, _number(size), _digest(digest, empty=bool(code)), piece)
            case _:
                raise DecodeError("these bytes are not an answer about a file")


def is_file_name(name: str) -> bool:
    """Whether a file may be called so.

    Segments of letters, digits, ``.``, ``_`` and ``-`` that begin with a letter or digit, between single slashes; at
    most `MAX_NAME` characters, and nowhere two dots in a row.
    """
    return len(name) <= MAX_NAME and ".." not in name and all(map(_SEGMENT.fullmatch, name.split("/")))


def _parts(data: bytes) -> Any:
    plain = loads(data, max_bytes=PIECE_BYTES + _OVERHEAD, max_depth=1, max_items=8)
    if not isinstance(plain, list) or not plain or plain[0] != _VERSION or any(type(part) is bool for part in plain):
        raise DecodeError(f"{len(data)} bytes are no message about files of version {_VERSION}")
    return plain[1:]


def _number(value: int) -> int:
    if not 0 <= value < _LARGEST:
        raise DecodeError("a number is not from 0 to 2^62")
    return value


def _digest(value: bytes, *, empty: bool) -> bytes:
    if len(value) != _DIGEST_BYTES and not (empty and not value):
        raise DecodeError(f"a digest of {len(value)} bytes, it has {_DIGEST_BYTES}")
    return value
