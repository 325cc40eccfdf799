"""A small mesh with an authority on the disk, devices that enrol without a network, and certificates nobody should."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmesh.identity import Authority, Enrolment, Issuer, Membership, Peer, Token, create_authority, open_issuer
from fedmesh.identity.certificates import DAY_S, issuer_certificate, new_key, root_certificate
from fedmesh.identity.keyfiles import read_key
from fedmesh.wire import loads

NOW = 1_800_000_000.0
BOTH = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
Uri = x509.UniformResourceIdentifier


@dataclass
class Mesh:
    """An authority in ``folder/ca``, which began at `begun`."""

    folder: Path
    begun: float = NOW

    def __post_init__(self) -> None:
        create_authority(self.ca, "home", self.begun)
        self.issuer: Issuer = open_issuer(self.ca)

    @property
    def ca(self) -> Path:
        return self.folder / "ca"

    @property
    def authority(self) -> Authority:
        return self.issuer.authority

    def token(self, device: str = "device-1", **options: Any) -> Token:
        return self.issuer.token(device, self.begun, **{"ttl_s": 3_600, **options})

    def enrol(self, device: str = "device-1", *, now: float | None = None, again: bool = False) -> Membership:
        """A device of its own folder, enrolled."""
        token = self.token(device, again=again)
        enrolment = Enrolment.begin(self.folder / device, token)
        hello = self.issuer.hello()
        at = self.begun if now is None else now
        reply = self.issuer.handle(enrolment.request(token.secret, hello.nonce), None, hello.nonce, at)
        return enrolment.finish(reply, at)

    def renew(self, membership: Membership, *, now: float) -> Membership:
        """The same device, with a new certificate."""
        renewal, hello = membership.renewal(), self.issuer.hello()
        renewal.finish(self.issuer.handle(renewal.request(hello.nonce), peer_of(membership), hello.nonce, now), now)
        return membership

    def issuer_key(self) -> ec.EllipticCurvePrivateKey:
        return read_key(self.ca / "issuer.key")


def peer_of(membership: Membership) -> Peer:
    """The peer that a handshake with this device finds, whatever the time."""
    now = membership.leaf.not_valid_before_utc.timestamp()
    return membership.check([der(membership.leaf)], expected=None, clock=now, server=True)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def answer(reply: bytes) -> Mapping[str, Any]:
    """What a reply holds."""
    content = loads(reply, max_bytes=1 << 24)
    assert isinstance(content, dict)
    return content


def rogue(mesh: str = "home", *, now: float = NOW) -> tuple[x509.Certificate, x509.Certificate, Any]:
    """Root and issuer of somebody who calls a mesh of theirs by the same name, and the issuer's key."""
    root_key, key = new_key(), new_key()
    root = root_certificate(mesh, root_key, now)
    return root, issuer_certificate(key.public_key(), 1, root, root_key, now), key


def leaf(
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    key: Any = None,
    begin: float = NOW - 300,
    days: float = 14,
    common: str = "device-1",
    names: Sequence[x509.GeneralName] | None = (Uri("fedmesh://home/device-1"),),
    usages: Sequence[x509.ObjectIdentifier] | None = BOTH,
    is_ca: bool = False,
    serial: int | None = None,
    critical: x509.ExtensionType | None = None,
) -> x509.Certificate:
    """A leaf as the issuer would never make it."""
    public = (key or new_key()).public_key()
    start = dt.datetime.fromtimestamp(int(begin), dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(seconds=int(days * DAY_S)))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(_usage(signs=is_ca), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, signs, False, False, False)
