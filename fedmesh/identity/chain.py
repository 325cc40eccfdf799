"""Whether a certificate is a peer's of this mesh: path, times, usages, name, revocation, in this order.

The path is verified by cryptography's X.509 verifier (RFC 5280 as the web's PKI reads it). What it leaves open is
checked here: both extended key usages, P-256, one URI and no second name, the common name, the mesh, the generation of
the issuer. A TLS library has none of this, so it follows every handshake.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedmesh.errors import IdentityError
from fedmesh.identity.certificates import UNREADABLE, at, fingerprint, is_p256, mesh_of, parsed
from fedmesh.identity.names import Name

__all__ = ["Authority", "Peer", "RevokedSerials", "check_peer"]

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_MAX_CHAIN = 3
_BOTH_USAGES = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


class RevokedSerials(Protocol):
    """What `check_peer` asks a revocation list."""

    def revoked(self, serial: int) -> bool:
        """Whether the certificate with this serial number is revoked."""
        ...

    def stale(self, now: float) -> bool:
        """Whether a newer list should have come by `now`."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a verified certificate speaks for.

    Attributes:
        serial: the certificate's serial number; fingerprint: SHA-256 of its DER.
        not_after: when it ends, seconds since 1970.
        generation: of its issuer.
        stale: the revocation list was overdue, or there was none: a warning to be counted, not a refusal.
    """

    name: Name
    serial: int
    fingerprint: bytes
    not_after: float
    generation: int
    stale: bool = field(compare=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """The pinned root, and the issuers under it that are known here.

    `oldest` is the least generation that is believed: a device takes the newest it has seen, so a lost issuer's key is
    worth nothing once its successor is known.
    """

    root: x509.Certificate
    issuers: tuple[x509.Certificate, ...] = ()
    oldest: int = 0

    @property
    def mesh(self) -> str:
        """Whose root it is."""
        return mesh_of(self.root)

    def learn(self, issuer: x509.Certificate, now: float) -> Self:
        """This authority with `issuer`, unless it knows a newer one; older ones are then believed no longer.

        Raises:
            IdentityError: ``authority``, ``early``, ``expired`` or ``issuer``: it is not an issuer of this root, or of
                a generation that is over.
        """
        self.check_issuer(issuer, now)
        newest = max((known.serial_number for known in self.issuers), default=0)
        if issuer in self.issuers or issuer.serial_number < newest:
            return self
        return type(self)(self.root, (issuer,), issuer.serial_number)

    def check_issuer(self, issuer: x509.Certificate, now: float) -> None:
        """Raises: IdentityError: as `learn`."""
        _check_times(issuer, now, "the issuer's certificate")
        _check_times(self.root, now, "the root's certificate")
        self._check_signed_by_root(issuer)
        if issuer.serial_number < self.oldest:
            raise IdentityError(
                f"issuer {issuer.serial_number} was replaced, the oldest that counts is {self.oldest}: renew",
                code="issuer",
            )

    def _check_signed_by_root(self, issuer: x509.Certificate) -> None:
        constraints = _extension(issuer, x509.BasicConstraints)
        usage = _extension(issuer, x509.KeyUsage)
        if constraints is None or not constraints.ca or constraints.path_length != 0:
            raise IdentityError("what came as an issuer's certificate is none of an authority", code="authority")
        if usage is None or not usage.key_cert_sign or not is_p256(issuer.public_key()):
            raise IdentityError("an issuer's certificate must be able to sign, with P-256", code="authority")
        try:
            issuer.verify_directly_issued_by(self.root)
        except (*UNREADABLE, InvalidSignature) as error:
            raise IdentityError(
                "the issuer's certificate is not signed by this mesh's root", code="authority"
            ) from error

    def issuer_of(self, leaf: x509.Certificate, offered: Iterable[x509.Certificate] = ()) -> x509.Certificate:
        """The known or offered issuer that `leaf` names. Raises: IdentityError (``authority``): there is none."""
        wanted = _extension(leaf, x509.AuthorityKeyIdentifier)
        for issuer in (*self.issuers, *offered):
            own = _extension(issuer, x509.SubjectKeyIdentifier)
            if wanted and own and issuer.subject == leaf.issuer and wanted.key_identifier == own.digest:
                return issuer
        raise IdentityError(
            "the certificate is of an issuer that is not known here: of another mesh, or newer than the lists",
            code="authority",
        )


def check_peer(
    chain_der: Sequence[bytes],
    *,
    authority: Authority,
    expected: str | None,
    revocations: RevokedSerials | None,
    now: float,
    server: bool = False,
) -> Peer:
    """Who is behind a handshake.

    Args:
        chain_der: the peer's certificate, then any issuer that it sent along; one known to `authority` is not needed.
        authority: whom to believe.
        expected: the id that it must have; None: any id of the mesh.
        revocations: the newest list; None counts as a stale one.
        now: seconds since 1970, never less than the time floor.
        server: whether host names and addresses may stand beside the URI.

    Raises:
        IdentityError: its `code` says what is wrong.
    """
    if not 0 < len(chain_der) <= _MAX_CHAIN:
        raise IdentityError(
            f"a chain of {len(chain_der)} certificates came; wanted 1 to {_MAX_CHAIN}", code="malformed"
        )
    try:
        leaf, *offered = map(parsed, chain_der)
        issuer = authority.issuer_of(leaf, offered)
        authority.check_issuer(issuer, now)
        _check_times(leaf, now, "the certificate")
        _check_usages(leaf)
        _check_path(leaf, issuer, authority.root, now)
        name = _name(leaf, server=server)
    except UNREADABLE as error:
        raise IdentityError("the certificate cannot be read", code="malformed") from error
    if name.mesh != authority.mesh:
        raise IdentityError(f"{name} is not of the mesh {authority.mesh!r}", code="name")
    if expected is not None and name.id != expected:
        raise IdentityError(f"{name.id!r} answered where {expected!r} was expected", code="peer")
    if revocations is not None and revocations.revoked(leaf.serial_number):
        raise IdentityError(f"the certificate of {name.id!r} is revoked", code="revoked")
    stale = revocations is None or revocations.stale(now)
    end = leaf.not_valid_after_utc.timestamp()
    return Peer(name, leaf.serial_number, fingerprint(leaf), end, issuer.serial_number, stale)


def _check_times(certificate: x509.Certificate, now: float, what: str) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if at(now) < begin:
        raise IdentityError(f"{what} begins at {begin:%F %T}, it is {at(now):%F %T} UTC: set the clock", code="early")
    if at(now) > end:
        raise IdentityError(
            f"{what} ended at {end:%F %T}, it is {at(now):%F %T} UTC: renew or enrol anew", code="expired"
        )


def _check_usages(leaf: x509.Certificate) -> None:
    constraints, usage = _extension(leaf, x509.BasicConstraints), _extension(leaf, x509.KeyUsage)
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if constraints is None or constraints.ca or usage is None or not usage.digital_signature or usage.key_cert_sign:
        raise IdentityError("the certificate is not a party's but an authority's, or may not sign", code="usage")
    if extended is None or set(extended) != _BOTH_USAGES:
        raise IdentityError("the certificate is not for both ends of a connection, as its usages say", code="usage")
    if not is_p256(leaf.public_key()):
        raise IdentityError("the certificate's key is not on P-256", code="key")


def _check_path(leaf: x509.Certificate, issuer: x509.Certificate, root: x509.Certificate, now: float) -> None:
    if _extension(leaf, x509.SubjectAlternativeName) is None:
        raise IdentityError("the certificate names nobody: it has no subject alternative name", code="name")
    verifier = PolicyBuilder().store(Store([root])).time(at(now)).max_chain_depth(1).build_client_verifier()
    try:
        verifier.verify(leaf, [issuer])
    except VerificationError as error:
        raise IdentityError("the certificate does not lead to this mesh's root", code="authority") from error


def _name(leaf: x509.Certificate, *, server: bool) -> Name:
    names = _extension(leaf, x509.SubjectAlternativeName) or ()
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    hosts = [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    if len(uris) != 1 or len(uris) + len(hosts) != len(list(names)):
        raise IdentityError(f"a certificate has one URI for a name; this one has {len(uris)} and others", code="name")
    if hosts and not server:
        raise IdentityError(f"the certificate of {uris[0]!r:.80} has host names, as a server's only may", code="name")
    name = Name.parse(uris[0])
    common = [attribute.value for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if common != [name.id]:
        raise IdentityError(f"the certificate's common name is not {name.id!r}, as its URI says", code="name")
    return name


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
