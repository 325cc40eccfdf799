"""Requests to enrol that the issuer must not grant, whatever is wrong with token, names, keys, proof or form."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from issuer_answers import granted, refused
from meshes import NOW, Mesh, Uri, answer, peer_of

from fedmesh.errors import IdentityError
from fedmesh.identity import Enrolment, Issuer, Name, Roster, Token
from fedmesh.identity.certificates import new_key
from fedmesh.identity.requests import MAX_REQUEST_BYTES, OFFLINE, proof, signing_request
from fedmesh.wire import dumps, loads

P256, SIGNING = new_key(), ed25519.Ed25519PrivateKey.generate()
NAME = Name("home", "device-1")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def request(token: Token, nonce: bytes, *, name: Name = NAME, key=P256, csr=None, signing=SIGNING, **changes) -> bytes:
    made = signing_request(name, key) if csr is None else csr
    fields = {
        "kind": "enrol",
        "device": name.id,
        "token": token.secret,
        "csr": made,
        "signing_key": signing.public_key().public_bytes_raw(),
        "proof": proof(signing, "enrol", nonce, name, made),
    }
    return dumps({**fields, **changes})


def nobody_was_enrolled(mesh, token):
    """And the token is still good for whom it is meant for."""
    assert not Roster.verified(mesh.issuer.lists(NOW)[0], mesh.authority, NOW).enrolled
    nonce = mesh.issuer.hello().nonce
    granted(mesh, request(token, nonce, name=token.name), nonce)


URI = Uri(NAME.uri)


def csr_for(*, key=P256, names=(URI,), common=("device-1",), more=(), algorithm=None):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in common])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else algorithm or hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def test_the_template_of_these_requests_is_granted(mesh):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    reply = granted(mesh, request(token, nonce), nonce)
    certificate = x509.load_der_x509_certificate(reply["certificate"])
    assert certificate.public_key() == P256.public_key()


def test_a_signing_request_for_another_id(mesh):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    for names, common in (
        ([Uri("fedmesh://home/device-2")], ["device-1"]),
        ([Uri(NAME.uri)], ["device-2"]),
        ([Uri("fedmesh://elsewhere/device-1")], ["device-1"]),
        ([Uri(NAME.uri), Uri("fedmesh://home/device-2")], ["device-1"]),
        ([Uri(NAME.uri), x509.DNSName("broker.local")], ["device-1"]),
        ([x509.DNSName("device-1")], ["device-1"]),
        ([Uri(NAME.uri)], []),
        ([Uri(NAME.uri)], ["device-1", "coordinator"]),
    ):
        refused(mesh, request(token, nonce, csr=csr_for(names=names, common=common)), "name", nonce=nonce)
    nobody_was_enrolled(mesh, token)


def test_a_token_for_another_device(mesh):
    """With a request that is sound in itself, for the thief's own name."""
    token, nonce = mesh.token("device-1"), mesh.issuer.hello().nonce
    refused(mesh, request(token, nonce, name=Name("home", "device-2")), "token", nonce=nonce)
    refused(mesh, request(token, nonce, name=Name("home", "ca")), "token", nonce=nonce)
    nobody_was_enrolled(mesh, token)


def test_a_token_that_was_used(mesh):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    first = granted(mesh, request(token, nonce), nonce)
    refused(mesh, request(token, nonce, key=new_key()), "token", nonce=nonce)
    refused(mesh, request(token, nonce, signing=ed25519.Ed25519PrivateKey.generate()), "token", nonce=nonce)
    again = mesh.issuer.hello().nonce
    assert granted(mesh, request(token, again), again)["certificate"] == first["certificate"]


def test_a_used_token_gives_nothing_after_a_revocation(mesh):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    granted(mesh, request(token, nonce), nonce)
    mesh.issuer.revoke("device-1", NOW)
    refused(mesh, request(token, nonce), "token", nonce=nonce)


def test_an_expired_an_unknown_and_a_superseded_token(mesh):
    token, nonce = mesh.token(ttl_s=60), mesh.issuer.hello().nonce
    refused(mesh, request(token, nonce), "token", nonce=nonce, now=NOW + 61)
    refused(mesh, request(Token(NAME, bytes(16), token.root), nonce), "token", nonce=nonce)
    for secret in (b"", token.secret[:-1], token.secret + b"x", "text", None, 1):
        refused(mesh, _with(token, nonce, {"token": secret}), "malformed", nonce=nonce)
    mesh.token(ttl_s=60)
    refused(mesh, request(token, nonce), "token", nonce=nonce)


def test_a_forged_proof_of_possession(mesh):
    """Somebody else's Ed25519 key, in the hope to speak for it in a secure sum; or a proof of something else."""
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    other = ed25519.Ed25519PrivateKey.generate()
    csr = signing_request(NAME, P256)
    forgeries = (
        bytes(64),
        proof(other, "enrol", nonce, NAME, csr),
        proof(SIGNING, "renew", nonce, NAME, csr),
        proof(SIGNING, "enrol", OFFLINE, NAME, csr),
        proof(SIGNING, "enrol", nonce, Name("home", "device-2"), csr),
        proof(SIGNING, "enrol", nonce, Name("elsewhere", "device-1"), csr),
        proof(SIGNING, "enrol", nonce, NAME, signing_request(NAME, new_key())),
        b"",
    )
    for forged in forgeries:
        refused(mesh, request(token, nonce, csr=csr, proof=forged), "proof", nonce=nonce)
    refused(mesh, request(token, nonce, csr=csr, proof="text"), "malformed", nonce=nonce)
    nobody_was_enrolled(mesh, token)


@pytest.mark.parametrize("low", [bytes(32), (1).to_bytes(32, "little"), b"\xff" * 32, b"", bytes(31), "text", None])
def test_an_ed25519_key_that_anybody_signs_for(mesh, low):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    refused(mesh, request(token, nonce, signing_key=low, proof=bytes(64)), "key", nonce=nonce)


def test_a_key_of_somebody_else(mesh):
    """Two names with one Ed25519 key would stop every secure sum; with one P-256 key, either speaks for both."""
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    granted(mesh, request(token, nonce), nonce)
    second, name = mesh.token("device-2"), Name("home", "device-2")
    refused(mesh, request(second, nonce, name=name, key=new_key()), "key", nonce=nonce)
    other = ed25519.Ed25519PrivateKey.generate()
    refused(mesh, request(second, nonce, name=name, signing=other), "key", nonce=nonce)
    granted(mesh, request(second, nonce, name=name, signing=other, key=new_key()), nonce)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 1_024),
        rsa.generate_private_key(65_537, 2_048),
        ec.generate_private_key(ec.SECP192R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA-1024", "RSA-2048", "P-192", "P-384", "secp256k1", "Ed25519"],
)
def test_a_weak_or_another_kind_of_key(mesh, key):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    refused(mesh, request(token, nonce, csr=csr_for(key=key)), "key", nonce=nonce)
    nobody_was_enrolled(mesh, token)


def test_a_signing_request_that_asks_for_more_or_is_not_signed(mesh):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    authority = x509.BasicConstraints(ca=True, path_length=None)
    unsigned = bytearray(csr_for())
    unsigned[-1] ^= 1
    for csr in (csr_for(more=[authority]), csr_for(names=()), bytes(unsigned), csr_for(algorithm=hashes.SHA512())):
        refused(mesh, request(token, nonce, csr=csr), "request", nonce=nonce)
    for csr in (b"", b"x", bytes(2_000), "text", None, csr_for()[:-1]):
        refused(
            mesh,
            request(token, nonce, csr=csr) if isinstance(csr, bytes) else _with(token, nonce, {"csr": csr}),
            "malformed",
        )
    nobody_was_enrolled(mesh, token)


def _with(token, nonce, changes):
    fields = loads(request(token, nonce), max_bytes=MAX_REQUEST_BYTES)
    return dumps({**fields, **changes})


def test_a_changed_byte_of_a_signing_request(mesh):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    whole = csr_for()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 + place % 255
        reply = answer(mesh.issuer.handle(request(token, nonce, csr=bytes(changed)), None, nonce, NOW))
        assert "refused" in reply
    nobody_was_enrolled(mesh, token)


def test_a_replayed_request(mesh):
    """Recorded in one conversation, sent in another: to enrol, and to renew."""
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    recorded = request(token, nonce)
    granted(mesh, recorded, nonce)
    refused(mesh, recorded, "proof")
    device = mesh.enrol("device-2")
    hello = mesh.issuer.hello()
    renewal = device.renewal().request(hello.nonce)
    granted(mesh, renewal, hello.nonce, peer=peer_of(device))
    refused(mesh, renewal, "proof", peer=peer_of(device))


def test_a_request_for_an_offline_signature_is_none_in_a_conversation(mesh):
    enrolment = Enrolment.begin(mesh.folder / "device-1", token := mesh.token())
    fields = loads(enrolment.offline(), max_bytes=MAX_REQUEST_BYTES)
    carried = dumps({"kind": "enrol", "token": token.secret, **fields})
    refused(mesh, carried, "proof")
    device = mesh.enrol("device-2")
    refused(mesh, device.renewal().request(OFFLINE), "request", nonce=OFFLINE, peer=peer_of(device))


def test_what_is_no_request(mesh):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    whole = loads(request(token, nonce), max_bytes=MAX_REQUEST_BYTES)
    missing = {key: value for key, value in whole.items() if key != "proof"}
    for message in (
        b"",
        b"\xff",
        bytes(MAX_REQUEST_BYTES + 1),
        dumps([]),
        dumps({}),
        dumps({1: 2}),
        dumps({"kind": []}),
        dumps({"kind": "sign"}),
        dumps({**whole, "hosts": ["broker.local"]}),
        dumps(missing),
        dumps({"kind": "lists", "all": True}),
        dumps({"kind": ["enrol"], "x": [[[]]]}),
    ):
        refused(mesh, message, "malformed", nonce=nonce)
    for device in ("", "Device-1", "a/b", "a+", "#", "x" * 64, None, 1, b"device-1", ["device-1"]):
        refused(mesh, dumps({**whole, "device": device}), "name", nonce=nonce)
    nobody_was_enrolled(mesh, token)


def test_an_enrolled_device_is_not_replaced_unasked(mesh):
    mesh.enrol()
    for ask in (mesh.token, mesh.enrol):
        with pytest.raises(IdentityError) as caught:
            ask("device-1")
        assert caught.value.code == "token"
    for ask in (mesh.issuer.token, mesh.issuer.revoke):
        with pytest.raises(IdentityError) as caught:
            ask("ca", NOW, **({"ttl_s": 60} if ask == mesh.issuer.token else {}))
        assert caught.value.code == "name"


def test_a_token_that_was_made_before_the_device_was_enrolled_otherwise(mesh):
    """Two tokens are never good at once, but a server may have been made in between."""
    token, nonce = mesh.token("broker"), mesh.issuer.hello().nonce
    key, signing = new_key().public_key(), ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    mesh.issuer.server("broker", key, signing, ["broker.local"], NOW, again=False)
    refused(mesh, request(token, nonce, name=Name("home", "broker")), "token", nonce=nonce)


def test_no_secret_is_in_a_repr_or_a_refusal(mesh, tmp_path):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    enrolment = Enrolment.begin(tmp_path / "device", token)
    refused_reply = mesh.issuer.handle(enrolment.request(token.secret, nonce), None, nonce, NOW + 1e6)
    shown = repr(token) + repr(enrolment) + repr(answer(refused_reply)) + repr(mesh.issuer)
    for secret in (token.secret.hex(), repr(token.secret), token.text):
        assert secret not in shown
    assert token.secret not in (mesh.ca / "register.sqlite").read_bytes()
    assert isinstance(mesh.issuer, Issuer)
