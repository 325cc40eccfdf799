"""An enrolled party's folder: its keys and certificate, whom it believes, and the newest lists that it has seen.

| file | what it is |
|---|---|
| ``ID.key`` | the Ed25519 key, 32 bytes, 0600: signs secure aggregation and proves who renews |
| ``tls.pem`` | the P-256 key, the certificate and its issuer's, 0600: one file, so that they change together |
| ``root.pem`` | the pinned root |
| ``roster.signed``, ``revocations.signed`` | the newest lists |
| ``issuer.address`` | where to renew, if it is known |
| ``time.floor`` | the earliest that it can be |

What was seen is never believed less of later: versions of lists, generations of issuers and the time only grow.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.files import write_atomically
from fedmesh.identity.certificates import due, new_key, parsed, pem
from fedmesh.identity.chain import Authority, Peer, check_peer
from fedmesh.identity.keyfiles import read_certificates, read_public, read_signing_key, write_key_and_chain
from fedmesh.identity.lists import MAX_LIST_BYTES, Revocations, Roster, to_cut
from fedmesh.identity.names import CA, Name
from fedmesh.identity.requests import Hello, proof, read_reply, signing_request
from fedmesh.identity.timefloor import TimeFloor
from fedmesh.wire import dumps

__all__ = ["LISTS_REQUEST", "Membership", "Renewal", "begun", "signing_key_path"]

LISTS_REQUEST = dumps({"kind": "lists"})
_TLS, _ROOT, _FLOOR = "tls.pem", "root.pem", "time.floor"
_ROSTER, _REVOCATIONS = "roster.signed", "revocations.signed"
_ADDRESS = "issuer.address"

Session = TypeVar("Session")


def signing_key_path(folder: Path, device: str) -> Path:
    """Where the Ed25519 key of `device` is."""
    return folder / f"{device}.key"


def begun(now: float, certificates: Iterable[x509.Certificate]) -> float:
    """`now`, or the latest beginning of `certificates`: if they prove to be signed, then it is that late at least."""
    return max([now, *(certificate.not_valid_before_utc.timestamp() for certificate in certificates)])


class Membership:
    """The party whose folder this is.

    Attributes:
        name: its name.
        leaf: its certificate; authority: whom it believes; roster, revocations: the newest lists.
        tls_path: key and chain; root_path: the root, for a TLS library.

    Raises:
        ConfigError: the folder is not one of an enrolled party, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.tls_path, self.root_path = folder, folder / _TLS, folder / _ROOT
        if not self.tls_path.exists():
            raise ConfigError(f"nobody is enrolled in {folder}: run fedmesh enroll, or name another folder")
        try:
            self.authority = Authority(read_certificates(self.root_path)[0])
            self.leaf, self._issuer = read_certificates(self.tls_path, secret=True)[:2]
            self.name = _own_name(self.leaf, self._issuer, self.authority)
            self._roster_data = read_public(folder / _ROSTER, MAX_LIST_BYTES)
            self._revocations_data = read_public(folder / _REVOCATIONS, MAX_LIST_BYTES)
            self.roster = Roster.verified(self._roster_data, self.authority, 0)
            self.revocations = Revocations.verified(self._revocations_data, self.authority, 0)
            self._learn([self._issuer, self.roster.issuer, self.revocations.issuer])
        except (IdentityError, ValueError) as error:
            raise ConfigError(f"the folder {folder} is damaged ({error}): put back a copy, or enrol anew") from error
        self._floor = TimeFloor(folder / _FLOOR)

    @classmethod
    def create(
        cls,
        folder: Path,
        name: Name,
        key: ec.EllipticCurvePrivateKey,
        signing_key: bytes,
        *,
        authority: Authority,
        answer: Mapping[str, bytes],
        now: float,
    ) -> Self:
        """Keeps what an issuer answered, once it is found to be for `name` and these two keys.

        `signing_key` is the public half of the Ed25519 key, 32 bytes.

        Raises:
            IdentityError: the answer is not what was asked for.
            ConfigError: the folder cannot be written.
        """
        leaf, issuer = _checked_answer(answer, name, key, authority, now)
        roster = Roster.verified(answer["roster"], authority, now)
        revocations = Revocations.verified(answer["revocations"], authority, now)
        if roster.keys.get(name.id) != signing_key:
            raise IdentityError(f"the roster that came has another key for {name.id!r}, or none", code="name")
        write_atomically(folder / _ROOT, pem(authority.root))
        write_atomically(folder / _ROSTER, answer["roster"])
        write_atomically(folder / _REVOCATIONS, answer["revocations"])
        proved = begun(max(roster.header.issued, revocations.header.issued), [leaf, issuer])
        TimeFloor.create(folder / _FLOOR, proved)
        write_key_and_chain(folder / _TLS, key, leaf, issuer)  # last: what says that the party is enrolled
        return cls(folder)

    def now(self, clock: float) -> float:
        """Seconds since 1970, when the clock says `clock`: never less than what was proved."""
        return self._floor.now(clock)

    @property
    def address(self) -> str:
        """HOST:PORT of the issuer, as it was at the enrolment; empty: nobody said."""
        path = self.folder / _ADDRESS
        return read_public(path, 300).decode("ascii", "replace").strip() if path.exists() else ""

    def remember_address(self, address: str) -> None:
        """Keeps HOST:PORT of the issuer for renewals. Raises: ConfigError: it cannot be written."""
        write_atomically(self.folder / _ADDRESS, address.encode("ascii", "replace") + b"\n")

    def signing_key(self) -> Ed25519PrivateKey:
        """The Ed25519 key. Raises: ConfigError: it is missing, damaged, or others can read it."""
        return read_signing_key(signing_key_path(self.folder, self.name.id))

    def due(self, clock: float) -> bool:
        """Whether to renew: two thirds of the certificate's life are over, or its issuer was replaced."""
        return due(self.leaf, self.now(clock)) or self._issuer.serial_number < self.authority.oldest

    def expired(self, clock: float) -> bool:
        """Whether it is too late to renew: only a new token helps."""
        return self.now(clock) > self.leaf.not_valid_after_utc.timestamp()

    def check(self, chain_der: Sequence[bytes], *, expected: str | None, clock: float, server: bool = False) -> Peer:
        """Who is behind a handshake, as `check_peer` says with what this party believes. Raises: IdentityError."""
        return check_peer(
            chain_der,
            authority=self.authority,
            expected=expected,
            revocations=self.revocations,
            now=self.now(clock),
            server=server,
        )

    def to_cut(self, sessions: Mapping[Session, Peer], clock: float) -> dict[Session, str]:
        """Which live sessions must end, and why: to be asked when a list was accepted, and now and then."""
        return to_cut(sessions, self.revocations, self.authority, self.now(clock))

    def check_issuer(self, hello: Hello, leaf_der: bytes, clock: float) -> Peer:
        """Whether a hello and the certificate of the handshake are of this mesh's issuer. Raises: IdentityError."""
        chain = [leaf_der, hello.issuer]
        present = begun(self.now(clock), map(parsed, chain))
        return check_peer(
            chain, authority=self.authority, expected=CA, revocations=self.revocations, now=present, server=True
        )

    def accept(self, clock: float, *, roster: bytes | None = None, revocations: bytes | None = None) -> bool:
        """Takes over newer lists, durably; returns whether one was newer.

        Raises:
            IdentityError: one is not signed by an issuer that is believed; ``rollback``: it is older than the one here;
                ``fork``: it is another of the same version. The other one may have been taken over.
        """
        changed = False
        if revocations is not None:
            changed |= self._accept_revocations(revocations, clock)
        if roster is not None:
            changed |= self._accept_roster(roster, clock)
        return changed

    def signed_lists(self) -> dict[str, bytes]:
        """``roster`` and ``revocations`` as they were signed, to be handed on: whoever gets them verifies them."""
        return {"roster": self._roster_data, "revocations": self._revocations_data}

    def renewal(self) -> "Renewal":
        """A renewal of the certificate, with a new P-256 key that is in memory until it is granted."""
        return Renewal(self)

    def _accept_revocations(self, data: bytes, clock: float) -> bool:
        new = Revocations.verified(data, self.authority, self.now(clock))
        if not _is_newer(new, data, self.revocations, self._revocations_data):
            return False
        write_atomically(self.folder / _REVOCATIONS, data)
        self.revocations, self._revocations_data = new, data
        self._took_over(new)
        return True

    def _accept_roster(self, data: bytes, clock: float) -> bool:
        new = Roster.verified(data, self.authority, self.now(clock))
        if not _is_newer(new, data, self.roster, self._roster_data):
            return False
        write_atomically(self.folder / _ROSTER, data)
        self.roster, self._roster_data = new, data
        self._took_over(new)
        return True

    def _took_over(self, new: Roster | Revocations) -> None:
        self._floor.prove(new.header.issued)
        self._learn([new.issuer])

    def _learn(self, issuers: Iterable[x509.Certificate]) -> None:
        for issuer in sorted(issuers, key=lambda issuer: issuer.serial_number):
            self.authority = self.authority.learn(issuer, begun(0, [issuer, self.authority.root]))

    def _renewed(self, key: ec.EllipticCurvePrivateKey, answer: Mapping[str, bytes], clock: float) -> None:
        leaf, issuer = _checked_answer(answer, self.name, key, self.authority, self.now(clock))
        self.accept(clock, roster=answer["roster"], revocations=answer["revocations"])
        self._learn([issuer])
        self._floor.prove(begun(0, [leaf]))
        write_key_and_chain(self.tls_path, key, leaf, issuer)
        self.leaf, self._issuer = leaf, issuer

    def __repr__(self) -> str:
        return f"Membership({self.name})"


class Renewal:
    """One attempt to renew."""

    def __init__(self, membership: Membership) -> None:
        self._membership, self._key = membership, new_key()

    def request(self, nonce: bytes) -> bytes:
        """What to send to a checked issuer, over a connection made with the certificate there is."""
        name = self._membership.name
        csr = signing_request(name, self._key)
        signature = proof(self._membership.signing_key(), "renew", nonce, name, csr)
        return dumps({"kind": "renew", "csr": csr, "proof": signature})

    def finish(self, reply: bytes, clock: float) -> None:
        """Checks the answer and keeps it. Raises: IdentityError: a refusal, or not what was asked for."""
        answer = read_reply(reply, {"certificate", "issuer", "root", "roster", "revocations"})
        self._membership._renewed(self._key, answer, clock)  # noqa: SLF001 - one thing in two classes


def _own_name(leaf: x509.Certificate, issuer: x509.Certificate, authority: Authority) -> Name:
    chain = [leaf.public_bytes(Encoding.DER), issuer.public_bytes(Encoding.DER)]
    present = begun(0, [leaf, issuer, authority.root])
    peer = check_peer(chain, authority=authority, expected=None, revocations=None, now=present, server=True)
    return peer.name


def _checked_answer(
    answer: Mapping[str, bytes], name: Name, key: ec.EllipticCurvePrivateKey, authority: Authority, now: float
) -> tuple[x509.Certificate, x509.Certificate]:
    chain = [answer["certificate"], answer["issuer"]]
    leaf, issuer = map(parsed, chain)
    present = begun(now, [leaf, issuer])
    check_peer(chain, authority=authority, expected=name.id, revocations=None, now=present, server=True)
    if leaf.public_key() != key.public_key():
        raise IdentityError("the certificate that came is for another key", code="key")
    return leaf, issuer


def _is_newer(new: Roster | Revocations, data: bytes, known: Roster | Revocations, known_data: bytes) -> bool:
    """Whether to take `new` over. Versions count among lists of one issuer: a thief of its key may use them up."""
    version, last = ((item.issuer.serial_number, item.header.version) for item in (new, known))
    if version < last:
        raise IdentityError(f"a list of version {version[1]} came, {last[1]} is known already", code="rollback")
    if version == last and data != known_data:
        raise IdentityError(f"two lists of version {version[1]} came: the issuer is in two places", code="fork")
    return version > last
