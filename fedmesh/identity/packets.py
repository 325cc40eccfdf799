"""Packets between members: signed by who wrote them, addressed, dated, of one kind, and each taken once.

A transport that somebody else runs (a broker, a relay) can read, drop and delay them, and nothing else: what is forged,
altered, for another member or mesh, too old, from the future or seen before is refused and counted. Ed25519 (RFC 8032)
under the keys of the signed roster. Not encrypted: what must stay secret is sealed by who writes it.

::

    length of the head, 2 bytes, big-endian | head: deterministic CBOR | signature, 64 bytes | parts, one after another

The head holds the lengths of the parts and the SHA-256 over all of them, so that large parts are neither copied nor
escaped. `Gate` forgets what it has seen when it ends: whoever must not act twice over a restart keeps the packet's id.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmesh.errors import DecodeError, IdentityError
from fedmesh.identity.names import Name
from fedmesh.wire import dumps, loads

__all__ = ["MAX_HEAD_BYTES", "MAX_PARTS", "Gate", "Packet", "Signet"]

Buffer = bytes | bytearray | memoryview

MAX_HEAD_BYTES = (1 << 16) - 1
MAX_PARTS = 1024
MAX_LIFE_S = 86_400.0
"""A packet is good for a day at most: so long is its id remembered."""
SKEW_S = 120.0
"""So far may the clocks of two members lie apart."""

_KEYS = {"digest", "expires", "fields", "format", "from", "id", "kind", "mesh", "parts", "sent", "to"}
_FORMAT, _ID_BYTES, _SIGNATURE_BYTES, _LENGTH_BYTES = 1, 16, 64, 2
_REMEMBERED = 4096  # ids of one sender


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet whose signature was right.

    Attributes:
        kind: what it is; sender: who wrote it; id: 16 bytes, like no other's.
        sent, expires: Unix seconds.
        fields: plain data of up to `MAX_HEAD_BYTES`.
        parts: long ones; views into what arrived.
    """

    kind: str
    sender: str
    id: bytes
    sent: float
    expires: float
    fields: Mapping[str, Any]
    parts: tuple[memoryview, ...]


class Signet:
    """What a member seals its packets with.

    Args:
        name: the member's; key: its Ed25519 key, on the roster.
    """

    __slots__ = ("_key", "name")

    def __init__(self, name: Name, key: Ed25519PrivateKey) -> None:
        self.name, self._key = name, key

    def __repr__(self) -> str:
        return f"Signet({self.name})"

    def seal(
        self,
        to: str,
        kind: str,
        *,
        now: float,
        expires_in_s: float,
        fields: Mapping[str, Any] | None = None,
        parts: Sequence[Buffer] = (),
    ) -> bytes:
        """The packet for the member `to`.

        Args:
            to: id of a member of the same mesh.
            kind: of the packet.
            now: Unix seconds; expires_in_s: seconds from then, a day at most.
            fields: plain data.
            parts: of any length.

        Raises:
            ValueError: the fields are longer than a head may be, there are too many parts, or it lives too long.
        """
        views = [memoryview(part).cast("B") for part in parts]
        head = dumps(
            {
                "format": _FORMAT,
                "mesh": self.name.mesh,
                "kind": kind,
                "from": self.name.id,
                "to": to,
                "id": secrets.token_bytes(_ID_BYTES),
                "sent": int(now * 1000),
                "expires": int((now + expires_in_s) * 1000),
                "fields": dict(fields or {}),
                "parts": [len(view) for view in views],
                "digest": _digest(views),
            }
        )
        if len(head) > MAX_HEAD_BYTES or len(views) > MAX_PARTS or not 0 < expires_in_s <= MAX_LIFE_S:
            raise ValueError(
                f"a packet {kind!r} with a head of {len(head)} bytes and {len(views)} parts, for {expires_in_s} s: at "
                f"most {MAX_HEAD_BYTES} bytes, {MAX_PARTS} parts and {MAX_LIFE_S:.0f} s; put long data into parts"
            )
        signature = self._key.sign(_signed(head))
        return b"".join([len(head).to_bytes(_LENGTH_BYTES, "big"), head, signature, *views])


class Gate:
    """Where a member's packets come in.

    Args:
        name: the member's own.
        key_of: id -> Ed25519 key (32 bytes) on the newest roster; None: no such member, or not any more.

    Attributes:
        counts: what was refused, by `IdentityError.code`.
    """

    def __init__(self, name: Name, key_of: Callable[[str], bytes | None]) -> None:
        self._name, self._key_of = name, key_of
        self._seen: dict[str, dict[bytes, float]] = {}  # sender -> id -> when it expires
        self.counts: Counter[str] = Counter()

    def open(self, data: Buffer, *, sender: str, now: float) -> Packet:
        """The packet in `data`; nothing but its head's length is looked at before the signature is found right.

        Args:
            data: as it arrived; it must not be changed while the packet's parts are in use.
            sender: who the transport says that it is from.
            now: Unix seconds.

        Raises:
            IdentityError: ``malformed``, ``name`` (no member, or for another), ``proof`` (not signed by `sender`),
                ``expired``, ``early``, ``replay``, or ``limit``: too many of this sender that are still good.
        """
        try:
            packet = self._opened(memoryview(data).cast("B"), sender, now)
            self._remember(packet, now)
        except IdentityError as error:
            self.counts[error.code] += 1
            raise
        return packet

    def _opened(self, data: memoryview, sender: str, now: float) -> Packet:
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        body = _LENGTH_BYTES + length + _SIGNATURE_BYTES
        if len(data) < body:
            raise IdentityError(f"a packet of {len(data)} bytes is cut off", code="malformed")
        head, signature = (
            bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length]),
            bytes(data[body - _SIGNATURE_BYTES : body]),
        )
        key = self._key_of(sender)
        if key is None:
            raise IdentityError(f"a packet came from {sender!r:.80}, who is not on the roster", code="name")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, _signed(head))
        except (InvalidSignature, ValueError) as error:
            raise IdentityError(f"a packet came that {sender!r:.80} has not signed", code="proof") from error
        return self._read(head, data[body:], sender, now)

    def _read(self, head: bytes, rest: memoryview, sender: str, now: float) -> Packet:
        content = _content(head)
        if (content["mesh"], content["from"], content["to"]) != (self._name.mesh, sender, self._name.id):
            raise IdentityError(f"a packet from {sender} came that is for somebody else", code="name")
        sent, expires = content["sent"] / 1000, content["expires"] / 1000
        if sent > now + SKEW_S:
            raise IdentityError(
                f"a packet from {sender} is dated {sent - now:.0f} s from now: set the clocks of both", code="early"
            )
        if expires <= now or expires - sent > MAX_LIFE_S:
            raise IdentityError(f"a packet from {sender} has expired, or lives for too long", code="expired")
        lengths = content["parts"]
        if sum(lengths) != len(rest):
            raise IdentityError(
                f"a packet from {sender} has {len(rest)} bytes of parts, its head says {sum(lengths)}", code="malformed"
            )
        parts, start = [], 0
        for part_length in lengths:
            parts.append(rest[start : start + part_length])
            start += part_length
        if _digest(parts) != content["digest"]:
            raise IdentityError(f"the parts of a packet from {sender} are not those that it signed", code="proof")
        return Packet(content["kind"], sender, content["id"], sent, expires, content["fields"], tuple(parts))

    def _remember(self, packet: Packet, now: float) -> None:
        seen = self._seen.setdefault(packet.sender, {})
        if packet.id in seen:
            raise IdentityError(f"a packet from {packet.sender} came a second time", code="replay")
        if len(seen) >= _REMEMBERED:
            for old in [known for known, expires in seen.items() if expires <= now]:
                del seen[old]
        if len(seen) >= _REMEMBERED:
            raise IdentityError(f"{packet.sender} sends more than {_REMEMBERED} packets at a time", code="limit")
        seen[packet.id] = packet.expires


def _content(head: bytes) -> dict[str, Any]:
    try:
        content = loads(head, max_bytes=MAX_HEAD_BYTES, max_depth=8)
    except DecodeError as error:
        raise IdentityError(f"the head of a packet cannot be read: {error}", code="malformed") from error
    if not isinstance(content, dict) or content.keys() != _KEYS or content["format"] != _FORMAT:
        raise IdentityError(f"the head of a packet is not of format {_FORMAT}", code="malformed")
    lengths = content["parts"]
    is_right = (
        all(type(content[key]) is int and content[key] >= 0 for key in ("sent", "expires"))
        and all(isinstance(content[key], str) for key in ("mesh", "kind", "from", "to"))
        and all(isinstance(content[key], bytes) for key in ("id", "digest"))
        and len(content["id"]) == _ID_BYTES
        and isinstance(content["fields"], dict)
        and all(isinstance(key, str) for key in content["fields"])
        and isinstance(lengths, list)
        and len(lengths) <= MAX_PARTS
        and all(type(length) is int and length >= 0 for length in lengths)
    )
    if not is_right:
        raise IdentityError("the head of a packet has fields of other types", code="malformed")
    return content


def _signed(head: bytes) -> bytes:
    return b"fedmesh packet\x00" + head  # the same key signs secure aggregation, which begins otherwise


def _digest(parts: Sequence[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
