"""What the issuer says of everybody, signed: who is enrolled (`Roster`), whose certificate is void (`Revocations`).

Signed data of our own instead of X.509's CRLs: a stale CRL makes a TLS library refuse everyone, while a stale list here
is a warning, and what it revokes stays revoked. Deterministic CBOR signed with ECDSA on P-256 (SHA-256) over a
text that says which kind of list it is; the issuer's certificate travels along, which is how a new issuer becomes
known. A version only grows, and two lists of one version are the same bytes.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedmesh.errors import DecodeError, IdentityError
from fedmesh.identity.certificates import parsed
from fedmesh.identity.chain import Authority, Peer
from fedmesh.identity.names import checked_id
from fedmesh.points import is_sound
from fedmesh.wire import dumps, loads

__all__ = [
    "MAX_LIST_BYTES",
    "RIGHTS",
    "Enrolled",
    "Header",
    "Revocations",
    "Roster",
    "revocations_body",
    "roster_body",
    "sign",
    "to_cut",
]

MAX_LIST_BYTES = 8 << 20  # some 60,000 devices
RIGHTS = ("runs",)
"""What a roster can give: ``runs``, to sign the charter of a run. A word of a later fedmesh gives nothing here."""
_MAX_ITEMS = 1 << 20
_MAX_RIGHTS, _MAX_RIGHT = 16, 40
_ROSTER, _REVOCATIONS = "fedmesh-roster/1", "fedmesh-revocations/1"
_TIME_LIMIT = 1 << 40
_SERIAL_BITS = 160  # RFC 5280 4.1.2.2

Session = TypeVar("Session", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Header:
    """What both kinds of list begin with; times are seconds since 1970.

    Attributes:
        version: grows with every list of its kind.
        next_update: when it is stale.
    """

    mesh: str
    version: int
    issued: int
    next_update: int


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A row of the roster: the Ed25519 key (32 bytes), and the newest certificate's serial number and SHA-256.

    Attributes:
        rights: what the authority lets it do beyond being a member, of `RIGHTS`; most have none.
    """

    signing_key: bytes
    serial: int
    fingerprint: bytes
    rights: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Roster:
    """Who is enrolled, by id; no two have the same key. Verified: it was made by `Roster.verified` only."""

    header: Header
    enrolled: Mapping[str, Enrolled]
    issuer: x509.Certificate

    @property
    def keys(self) -> dict[str, bytes]:
        """Id -> Ed25519 key: what secure aggregation pins."""
        return {name: row.signing_key for name, row in self.enrolled.items()}

    def has_right(self, name: str, right: str) -> bool:
        """Whether the authority gives it to `name`."""
        row = self.enrolled.get(name)
        return row is not None and right in row.rights

    @classmethod
    def verified(cls, data: bytes, authority: Authority, now: float) -> "Roster":
        """The roster in `data`. Raises: IdentityError: it is none, or not signed by an issuer of `authority`."""
        header, rows, issuer = _opened(data, _ROSTER, "devices", authority, now)
        enrolled = dict(map(_enrolled, rows))
        if len(enrolled) != len(rows) or len({row.signing_key for row in enrolled.values()}) != len(rows):
            raise IdentityError("the roster has a device or a key twice", code="malformed")
        return cls(header, enrolled, issuer)


@dataclass(frozen=True, slots=True)
class Revocations:
    """Certificates that are void though they have not expired, by serial number. Verified, as a roster."""

    header: Header
    serials: Mapping[int, str]
    issuer: x509.Certificate

    def revoked(self, serial: int) -> bool:
        """Whether the certificate with this serial number is revoked."""
        return serial in self.serials

    def stale(self, now: float) -> bool:
        """Whether a newer list should have come by `now`: to be warned of and counted; nobody is refused for it."""
        return now > self.header.next_update

    @classmethod
    def verified(cls, data: bytes, authority: Authority, now: float) -> "Revocations":
        """The list in `data`. Raises: IdentityError: it is none, or not signed by an issuer of `authority`."""
        header, rows, issuer = _opened(data, _REVOCATIONS, "revoked", authority, now)
        return cls(header, dict(map(_revoked, rows)), issuer)


def to_cut(
    sessions: Mapping[Session, Peer], revocations: Revocations, authority: Authority, now: float
) -> dict[Session, str]:
    """Which live sessions must end, and why: ``revoked``, ``expired`` or ``issuer``.

    To be called whenever a list has come, and now and then: a certificate is looked at in the handshake only, and a
    session outlives it.
    """
    found = {session: _reason(peer, revocations, authority, now) for session, peer in sessions.items()}
    return {session: reason for session, reason in found.items() if reason}


def _reason(peer: Peer, revocations: Revocations, authority: Authority, now: float) -> str:
    if revocations.revoked(peer.serial):
        return "revoked"
    if now > peer.not_after:
        return "expired"
    return "issuer" if peer.generation < authority.oldest else ""


def roster_body(header: Header, enrolled: Mapping[str, Enrolled]) -> bytes:
    """What is signed of a roster."""
    return _body(_ROSTER, header, "devices", [_row(name, row) for name, row in sorted(enrolled.items())])


def revocations_body(header: Header, serials: Mapping[int, str]) -> bytes:
    """What is signed of a revocation list: serial number -> id."""
    return _body(
        _REVOCATIONS, header, "revoked", [[_from_serial(serial), name] for serial, name in sorted(serials.items())]
    )


def sign(body: bytes, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The list whose body this is, signed."""
    signature = key.sign(_signed(body), ec.ECDSA(hashes.SHA256()))
    return dumps({"body": body, "issuer": issuer.public_bytes(Encoding.DER), "signature": signature})


def _body(kind: str, header: Header, what: str, rows: list[Any]) -> bytes:
    return dumps(
        {
            "format": kind,
            "mesh": header.mesh,
            "version": header.version,
            "issued": header.issued,
            "next_update": header.next_update,
            what: rows,
        }
    )


def _signed(body: bytes) -> bytes:
    return b"fedmesh signed list\x00" + body  # the key signs certificates as well, which begin otherwise


def _opened(
    data: bytes, kind: str, what: str, authority: Authority, now: float
) -> tuple[Header, list[Any], x509.Certificate]:
    """Header, rows and issuer of a list whose signature is right. Nothing of the body is read before it is verified."""
    envelope = _map(data, {"body", "issuer", "signature"}, max_bytes=MAX_LIST_BYTES)
    body, signature = envelope["body"], envelope["signature"]
    if not isinstance(body, bytes) or not isinstance(signature, bytes):
        raise IdentityError("a signed list's body and signature are bytes", code="malformed")
    issuer = parsed(envelope["issuer"])
    begun = issuer.not_valid_before_utc.timestamp()  # what a pinned root signed with a date proves that it has come
    authority.check_issuer(issuer, max(now, begun))
    key = issuer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "check_issuer lets P-256 through only"
    try:
        key.verify(signature, _signed(body), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise IdentityError("a signed list does not bear its issuer's signature", code="authority") from error
    content = _map(body, {"format", "mesh", "version", "issued", "next_update", what}, max_bytes=MAX_LIST_BYTES)
    header = _header(content, kind, authority.mesh)
    authority.check_issuer(issuer, max(now, begun, header.issued))  # nothing is dated after its issuer's end
    return header, _rows(content[what]), issuer


def _header(content: dict[str, Any], kind: str, mesh: str) -> Header:
    if content["format"] != kind or content["mesh"] != mesh:
        raise IdentityError(f"a list came that is not {kind} of the mesh {mesh!r}", code="malformed")
    numbers = [content[field] for field in ("version", "issued", "next_update")]
    if not all(type(number) is int and 0 <= number < _TIME_LIMIT for number in numbers) or numbers[1] > numbers[2]:
        raise IdentityError("a list's version or times are no numbers that fit", code="malformed")
    return Header(mesh, *numbers)


def _row(name: str, row: Enrolled) -> list[Any]:
    plain: list[Any] = [name, row.signing_key, _from_serial(row.serial), row.fingerprint]
    return [*plain, sorted(row.rights)] if row.rights else plain  # as before there were any, where there are none


def _rows(rows: object) -> list[Any]:
    if not isinstance(rows, list):
        raise IdentityError("a list's rows are no list", code="malformed")
    return rows


def _enrolled(row: object) -> tuple[str, Enrolled]:
    match row:
        case [str(name), bytes(key), bytes(serial), bytes(certificate), *rest] if (
            len(certificate) == 32 and is_sound(key) and len(rest) <= 1
        ):
            return checked_id(name), Enrolled(key, _to_serial(serial), certificate, _rights(rest))
        case _:
            raise IdentityError("a row of the roster is malformed, or its key is not sound", code="malformed")


def _rights(rest: list[Any]) -> frozenset[str]:
    match rest:
        case []:
            return frozenset()
        case [list(words)] if 0 < len(words) <= _MAX_RIGHTS and all(
            isinstance(word, str) and len(word) <= _MAX_RIGHT for word in words
        ):
            return frozenset(words)
        case _:
            raise IdentityError("what the roster says of somebody's rights is malformed", code="malformed")


def _revoked(row: object) -> tuple[int, str]:
    match row:
        case [bytes(serial), str(name)]:
            return _to_serial(serial), checked_id(name)
        case _:
            raise IdentityError("a row of the revocation list is malformed", code="malformed")


def _from_serial(serial: int) -> bytes:
    return serial.to_bytes(_SERIAL_BITS // 8, "big")


def _to_serial(serial: bytes) -> int:
    if len(serial) != _SERIAL_BITS // 8:
        raise IdentityError(
            f"a serial number of {len(serial)} bytes came; wanted {_SERIAL_BITS // 8}", code="malformed"
        )
    return int.from_bytes(serial, "big")


def _map(data: bytes, keys: set[str], *, max_bytes: int) -> dict[str, Any]:
    try:
        content = loads(data, max_bytes=max_bytes, max_depth=4, max_items=_MAX_ITEMS)
    except DecodeError as error:
        raise IdentityError(f"a signed list cannot be read: {error}", code="malformed") from error
    if not isinstance(content, dict) or content.keys() != keys:
        raise IdentityError(f"a signed list is a map of {sorted(keys)}", code="malformed")
    return content
