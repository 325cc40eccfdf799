"""What a party asks an issuer, and what it answers: maps of deterministic CBOR, with exactly the keys named here.

The issuer speaks first (`hello`), with 32 random bytes that every proof covers: a request that was recorded fits no
other conversation. Then one request and one reply. A proof is an Ed25519 signature over nonce, name, kind and the
certificate signing request (PKCS #10, RFC 2986), which the new P-256 key has signed itself: whoever asks has both keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from fedmesh.errors import IDENTITY_CODES, DecodeError, IdentityError
from fedmesh.identity.certificates import UNREADABLE, digest, is_p256
from fedmesh.identity.names import Name
from fedmesh.points import is_sound
from fedmesh.wire import dumps, loads

__all__ = [
    "MAX_REPLY_BYTES",
    "MAX_REQUEST_BYTES",
    "NONCE_BYTES",
    "OFFLINE",
    "PROTOCOL",
    "Hello",
    "checked_csr",
    "checked_proof",
    "printable",
    "proof",
    "read_map",
    "read_reply",
    "refusal",
    "signing_request",
]

PROTOCOL = "fedmesh-issuer/1"
MAX_REQUEST_BYTES = 8_192
MAX_REPLY_BYTES = 17 << 20  # two lists, three certificates
NONCE_BYTES = 32
OFFLINE = bytes(NONCE_BYTES)
"""Stands for the nonce in a request that is carried by hand: a token that is used up is what stops its repetition."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the issuer says first: that it accepted the connection, who it is, and this conversation's nonce."""

    mesh: str
    nonce: bytes
    root: bytes
    issuer: bytes

    def to_bytes(self) -> bytes:
        """The message."""
        content = {
            "protocol": PROTOCOL,
            "mesh": self.mesh,
            "nonce": self.nonce,
            "root": self.root,
            "issuer": self.issuer,
        }
        return dumps(content)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Hello":
        """The hello in `data`. Raises: IdentityError: it is none, or a refusal (its code)."""
        content = read_map(data, None, max_bytes=4 * MAX_REQUEST_BYTES)
        _check_not_refused(content)
        if content.keys() != {"protocol", "mesh", "nonce", "root", "issuer"} or content["protocol"] != PROTOCOL:
            raise IdentityError(f"who listens there does not speak {PROTOCOL}", code="malformed")
        match content:
            case {"mesh": str(mesh), "nonce": bytes(nonce), "root": bytes(root), "issuer": bytes(issuer)} if (
                len(nonce) == NONCE_BYTES and nonce != OFFLINE
            ):
                return cls(mesh, nonce, root, issuer)
            case _:
                raise IdentityError("the issuer's hello is malformed", code="malformed")


def signing_request(name: Name, key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER of a request for a certificate of `key` in `name`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name.id)])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def checked_csr(der: object, name: Name) -> ec.EllipticCurvePublicKey:
    """The key that `der` asks a certificate for, in `name` and nothing more.

    Raises:
        IdentityError: ``malformed``; ``key``: it is not on P-256; ``request``: it is not signed by its key, or asks for
            anything but one URI name; ``name``: the name is another.
    """
    if not isinstance(der, bytes) or len(der) > MAX_REQUEST_BYTES:
        raise IdentityError("a signing request is some hundred bytes of DER", code="malformed")
    try:
        csr = x509.load_der_x509_csr(der)
        key, sound, extensions = csr.public_key(), csr.is_signature_valid, list(csr.extensions)
        common, algorithm = [attribute.value for attribute in csr.subject], csr.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise IdentityError("the signing request's key is of an unknown kind: wanted P-256", code="key") from error
    except UNREADABLE as error:
        raise IdentityError("what came as a signing request is none", code="malformed") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not is_p256(key):
        raise IdentityError("the signing request's key is not on P-256", code="key")
    if not sound or not isinstance(algorithm, hashes.SHA256):
        raise IdentityError("the signing request does not bear its own key's signature with SHA-256", code="request")
    if [extension.oid for extension in extensions] != [ExtensionOID.SUBJECT_ALTERNATIVE_NAME]:
        raise IdentityError("a signing request asks for a name, and for nothing else", code="request")
    if list(extensions[0].value) != [x509.UniformResourceIdentifier(name.uri)] or common != [name.id]:
        raise IdentityError(f"the signing request is for another name than {name}", code="name")
    return key


def proof(key: Ed25519PrivateKey, kind: str, nonce: bytes, name: Name, csr: bytes) -> bytes:
    """64 bytes: `key` asks for `kind` (``enrol``, ``renew``), in this conversation."""
    return key.sign(_proved(kind, nonce, name, csr))


def checked_proof(signing_key: object, signature: object, *, kind: str, nonce: bytes, name: Name, csr: bytes) -> bytes:
    """`signing_key`, 32 bytes. Raises: IdentityError (``key``, ``proof``): it is unsound, or did not sign this."""
    if not isinstance(signing_key, bytes) or not is_sound(signing_key):
        raise IdentityError("the Ed25519 key is not 32 bytes of a sound key", code="key")
    if not isinstance(signature, bytes):
        raise IdentityError("the proof of possession is not bytes", code="malformed")
    try:
        Ed25519PublicKey.from_public_bytes(signing_key).verify(signature, _proved(kind, nonce, name, csr))
    except (InvalidSignature, ValueError) as error:
        raise IdentityError("the Ed25519 key did not sign this request in this conversation", code="proof") from error
    return signing_key


def read_reply(data: bytes, keys: set[str]) -> Mapping[str, bytes]:
    """What an issuer answered: byte strings under `keys`.

    Raises:
        IdentityError: with the issuer's code, when it refused; ``malformed``.
    """
    content = read_map(data, None, max_bytes=MAX_REPLY_BYTES)
    _check_not_refused(content)
    if content.keys() != keys or not all(isinstance(value, bytes) for value in content.values()):
        raise IdentityError(f"the issuer's answer holds not {sorted(keys)}", code="malformed")
    return content


def _check_not_refused(content: Mapping[str, Any]) -> None:
    match content:
        case {"refused": str(code), "why": str(why)} if len(content) == 2:
            known = code if code in IDENTITY_CODES else "malformed"
            raise IdentityError(f"the issuer refused: {printable(why)}", code=known)


def printable(text: str, most: int = 400) -> str:
    """`text` from a stranger, without what would command a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:most])


def refusal(error: IdentityError) -> bytes:
    """The reply that says no, and why."""
    return dumps({"refused": error.code, "why": str(error)[:400]})


def read_map(data: bytes, keys: set[str] | None, *, max_bytes: int) -> Mapping[str, Any]:
    """A map with text keys, exactly `keys` if given. Raises: IdentityError (``malformed``): it is none."""
    try:
        content = loads(data, max_bytes=max_bytes, max_depth=2, max_items=64)
    except DecodeError as error:
        raise IdentityError(f"a message cannot be read: {error}", code="malformed") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise IdentityError("a message is no map", code="malformed")
    if keys is not None and content.keys() != keys:
        held = [key[:40] for key in sorted(content)[:8]]
        raise IdentityError(f"a message holds {held}; wanted {sorted(keys)}", code="malformed")
    return content


def _proved(kind: str, nonce: bytes, name: Name, csr: bytes) -> bytes:
    return dumps(["fedmesh proof of possession", kind, nonce, name.uri, digest(csr)])
