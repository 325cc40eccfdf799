"""The three kinds of certificates (X.509, RFC 5280), all P-256 with ECDSA and SHA-256, and what they say.

Root (path length 1) -> issuer (path length 0, its serial number is its *generation*) -> leaf. A leaf has exactly one
URI among its names (`fedmesh.identity.names`), the id as its common name, and both extended key usages, since every
party dials and is dialled. Host names and addresses stand beside the URI in a server's leaf alone.
"""

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.identity.names import Name, checked_id

__all__ = [
    "BACKDATED_S",
    "DAY_S",
    "MAX_CERTIFICATE_BYTES",
    "UNREADABLE",
    "at",
    "digest",
    "due",
    "fingerprint",
    "hosts_of",
    "is_p256",
    "issuer_certificate",
    "leaf_certificate",
    "mesh_of",
    "new_key",
    "parsed",
    "pem",
    "root_certificate",
]

DAY_S = 86_400
BACKDATED_S = 300
"""How long before it was made a certificate begins: clocks of devices are some minutes apart."""

MAX_CERTIFICATE_BYTES = 8_192
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the parser raises over bytes from a stranger, at once or when a field is looked at."""

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ROOT_DAYS, _ISSUER_DAYS = 20 * 365, 3 * 365


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key, from the operating system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def is_p256(key: object) -> bool:
    """Whether `key` is a public key on P-256."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def at(seconds: float) -> datetime:
    """The date of `seconds` since 1970, whole."""
    return datetime.fromtimestamp(int(seconds), UTC)


def parsed(der: bytes) -> x509.Certificate:
    """The certificate in `der`. Raises: IdentityError (``malformed``): there is none, or it is too large."""
    if not isinstance(der, bytes) or len(der) > MAX_CERTIFICATE_BYTES:
        raise IdentityError(f"a certificate is at most {MAX_CERTIFICATE_BYTES} bytes of DER", code="malformed")
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise IdentityError("what came as a certificate is none", code="malformed") from error


def pem(*certificates: x509.Certificate) -> bytes:
    """PEM of `certificates`, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the DER, 32 bytes."""
    return digest(certificate.public_bytes(Encoding.DER))


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and addresses that stand in it, if any."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def digest(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def mesh_of(root: x509.Certificate) -> str:
    """Whose root it is. Raises: IdentityError (``authority``): it is not a root of ours."""
    names = root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(names) != 1:
        raise IdentityError("the root's subject names no mesh: it was not made by fedmesh ca init", code="authority")
    return checked_id(names[0].value, "a mesh")


def due(certificate: x509.Certificate, now: float) -> bool:
    """Whether `certificate` should be renewed at `now`: two thirds of its life are over."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return now >= begin + (end - begin) * 2 / 3


def root_certificate(mesh: str, key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    """The root of `mesh`, signed by itself."""
    subject = _subject("root", checked_id(mesh, "a mesh"))
    builder = _builder(
        subject, subject, key.public_key(), x509.random_serial_number(), now=now, life_s=_ROOT_DAYS * DAY_S
    )
    return _authority(builder, key.public_key(), key, path_length=1)


def issuer_certificate(
    key: ec.EllipticCurvePublicKey,
    generation: int,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    now: float,
) -> x509.Certificate:
    """The issuer of that `generation` (1, 2, ...), signed by the root."""
    subject = _subject(f"issuer {generation}", mesh_of(root))
    life_s = min(_ISSUER_DAYS * DAY_S, root.not_valid_after_utc.timestamp() - now)
    return _authority(
        _builder(subject, root.subject, key, generation, now=now, life_s=life_s), key, root_key, path_length=0
    )


def leaf_certificate(
    name: Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    now: float,
    life_s: float,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """A leaf for `name`, no longer valid than its issuer; `hosts` are DNS names and addresses of a server.

    Raises:
        ConfigError: the issuer expires within the hour, or a host is neither a DNS name nor an address.
    """
    life_s = min(life_s, issuer.not_valid_after_utc.timestamp() - now)
    if life_s < 3600:
        raise ConfigError("the issuer's certificate expires: make the next with fedmesh ca issuer and the root's key")
    builder = _builder(_subject(name.id), issuer.subject, key, x509.random_serial_number(), now=now, life_s=life_s)
    names = [x509.UniformResourceIdentifier(name.uri), *map(_host, hosts)]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_authority_key(issuer), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, *, now: float, life_s: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(at(now - BACKDATED_S))
        .not_valid_after(at(now) + timedelta(seconds=int(life_s)))
    )


def _authority(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
) -> x509.Certificate:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(common: str, mesh: str | None = None) -> x509.Name:
    organization = [] if mesh is None else [x509.NameAttribute(NameOID.ORGANIZATION_NAME, mesh)]
    return x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass  # then it is a name
    if not _HOST.fullmatch(host):
        raise ConfigError(f"{host!r:.80} is neither a DNS name in ASCII nor an address")
    return x509.DNSName(host)
