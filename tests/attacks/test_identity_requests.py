"""Requests to the issuer that it must not grant, and answers, lists and tokens that a device must not believe."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from meshes import NOW, Mesh, Uri, answer, der, leaf, peer_of, rogue

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.identity import Enrolment, Issuer, Name, Revocations, Roster, Token, open_issuer, replace_issuer
from fedmesh.identity.certificates import DAY_S, new_key
from fedmesh.identity.lists import Enrolled, Header, revocations_body, roster_body, sign
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


def refused(mesh, message, code, *, nonce=None, peer=None, now=NOW):
    before = mesh.issuer.refused[code]
    reply = answer(mesh.issuer.handle(message, peer, nonce or mesh.issuer.hello().nonce, now))
    assert reply.get("refused") == code, reply
    assert mesh.issuer.refused[code] == before + 1


def granted(mesh, message, nonce, *, peer=None, now=NOW):
    reply = answer(mesh.issuer.handle(message, peer, nonce, now))
    assert "refused" not in reply, reply
    return reply


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


def test_what_needs_a_certificate_is_not_done_without(mesh):
    device = mesh.enrol()
    nonce = mesh.issuer.hello().nonce
    refused(mesh, dumps({"kind": "lists"}), "usage")
    refused(mesh, device.renewal().request(nonce), "usage", nonce=nonce)


def test_a_renewal_for_another_device(mesh):
    """Its own certificate, another's request; and a certificate without the Ed25519 key that belongs to it."""
    thief, victim = mesh.enrol("device-1"), mesh.enrol("device-2")
    nonce = mesh.issuer.hello().nonce
    refused(mesh, victim.renewal().request(nonce), "name", nonce=nonce, peer=peer_of(thief))
    csr = signing_request(victim.name, new_key())
    forged = proof(thief.signing_key(), "renew", nonce, victim.name, csr)
    refused(mesh, dumps({"kind": "renew", "csr": csr, "proof": forged}), "proof", nonce=nonce, peer=peer_of(victim))


def test_a_certificate_that_a_stolen_issuers_key_made_is_not_renewed(mesh):
    """Though its signature is right: the register does not have it."""
    device = mesh.enrol()
    nonce = mesh.issuer.hello().nonce
    for serial in (None, device.leaf.serial_number):
        forged = leaf(mesh.issuer.certificate, mesh.issuer_key(), serial=serial)
        peer = device.check([der(forged)], expected=None, clock=NOW)
        refused(mesh, device.renewal().request(nonce), "authority", nonce=nonce, peer=peer)


def test_a_revoked_device_is_told_nothing(mesh):
    device = mesh.enrol()
    peer, nonce = peer_of(device), mesh.issuer.hello().nonce
    mesh.issuer.revoke("device-1", NOW)
    refused(mesh, device.renewal().request(nonce), "revoked", nonce=nonce, peer=peer)
    refused(mesh, dumps({"kind": "lists"}), "revoked", peer=peer)
    again = mesh.enrol("device-1", again=True)
    refused(mesh, device.renewal().request(nonce), "revoked", nonce=nonce, peer=peer)
    granted(mesh, again.renewal().request(nonce), nonce, peer=peer_of(again))


def test_a_device_that_renews_in_a_loop(mesh):
    device = mesh.enrol()
    for _ in range(7):
        mesh.renew(device, now=NOW)
    nonce = mesh.issuer.hello().nonce
    refused(mesh, device.renewal().request(nonce), "limit", nonce=nonce, peer=peer_of(device))
    later = NOW + 15 * DAY_S
    fresh = mesh.enrol("device-1", again=True, now=NOW)
    assert fresh.due(later - 1)


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


# What a device must not believe.


def test_an_issuer_that_is_not_the_tokens(mesh, tmp_path):
    """Of a mesh of the same name: it is told nothing, neither the secret nor that the device was there."""
    other = Mesh(tmp_path / "other")
    enrolment = Enrolment.begin(tmp_path / "device", mesh.token())
    for hello, certificate in (
        (other.issuer.hello(), other.issuer.own_leaf(P256.public_key(), NOW)),
        (mesh.issuer.hello(), other.issuer.own_leaf(P256.public_key(), NOW)),
        (mesh.issuer.hello(), leaf(mesh.issuer.certificate, new_key(), names=[Uri("fedmesh://home/ca")], common="ca")),
    ):
        with pytest.raises(IdentityError) as caught:
            enrolment.check_issuer(hello, der(certificate), NOW)
        assert caught.value.code == "authority"


def test_a_device_that_poses_as_the_issuer(mesh, tmp_path):
    member = mesh.enrol("device-2")
    enrolment = Enrolment.begin(tmp_path / "device", mesh.token())
    with pytest.raises(IdentityError) as caught:
        enrolment.check_issuer(mesh.issuer.hello(), der(member.leaf), NOW)
    assert caught.value.code == "peer"
    other = mesh.enrol("device-3")
    with pytest.raises(IdentityError) as caught:
        other.check_issuer(mesh.issuer.hello(), der(member.leaf), NOW)
    assert caught.value.code == "peer"


def test_answers_that_are_not_what_was_asked_for(mesh, tmp_path):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    enrolment = Enrolment.begin(tmp_path / "device", token)
    other = mesh.enrol("device-2")
    good = dict(answer(mesh.issuer.handle(enrolment.request(token.secret, nonce), None, nonce, NOW)))
    root, _, _ = rogue()
    mesh.enrol("device-3")
    without = mesh.issuer.lists(NOW)[0]
    mesh.issuer.revoke("device-1", NOW)
    for changes, code in (
        ({"certificate": der(other.leaf)}, "peer"),
        ({"certificate": der(leaf(mesh.issuer.certificate, mesh.issuer_key()))}, "key"),
        ({"root": der(root)}, "authority"),
        ({"roster": good["revocations"]}, "malformed"),
        ({"revocations": good["roster"]}, "malformed"),
        ({"roster": mesh.issuer.lists(NOW)[0]}, "name"),
        ({"roster": b""}, "malformed"),
        ({"extra": b""}, "malformed"),
    ):
        with pytest.raises(IdentityError) as caught:
            enrolment.finish(dumps({**good, **changes}), NOW)
        assert caught.value.code == code, changes
        assert not (tmp_path / "device" / "tls.pem").exists()
    assert without
    assert enrolment.finish(dumps(good), NOW).name == NAME


def test_lists_that_are_older_forked_or_forged(mesh):
    device = mesh.enrol()
    old_roster, old_revocations = mesh.issuer.lists(NOW)
    mesh.enrol("device-2", now=NOW + 10)
    mesh.issuer.revoke("device-2", NOW + 20)
    roster, revocations = mesh.issuer.lists(NOW + 30)
    assert device.accept(NOW + 30, roster=roster, revocations=revocations)
    assert not device.accept(NOW + 30, roster=roster, revocations=revocations)
    key, issuer, version = mesh.issuer_key(), mesh.issuer.certificate, device.revocations.header.version
    header = Header("home", version, int(NOW), int(NOW) + 10)
    _, stranger, stranger_key = rogue()
    newer = Header("home", version + 5, int(NOW), int(NOW) + 10)
    elsewhere = Header("elsewhere", version + 5, int(NOW), int(NOW) + 10)
    tampered = loads(revocations, max_bytes=1 << 20)
    for data, code in (
        (old_revocations, "rollback"),
        (sign(revocations_body(header, {}), issuer, key), "fork"),
        (sign(revocations_body(newer, {}), stranger, stranger_key), "authority"),
        (sign(revocations_body(newer, {}), issuer, stranger_key), "authority"),
        (sign(revocations_body(newer, {}), device.leaf, stranger_key), "authority"),
        (sign(revocations_body(elsewhere, {}), issuer, key), "malformed"),
        (dumps({**tampered, "body": tampered["body"][:-1] + b"x"}), "authority"),
        (sign(revocations_body(newer, {}).replace(b"revocations/1", b"revocations/2"), issuer, key), "malformed"),
        (roster, "malformed"),
        (b"", "malformed"),
    ):
        with pytest.raises(IdentityError) as caught:
            device.accept(NOW + 30, revocations=data)
        assert caught.value.code == code
    with pytest.raises(IdentityError) as caught:
        device.accept(NOW + 30, roster=old_roster)
    assert caught.value.code == "rollback"
    assert device.revocations.header.version == version


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32])
def test_a_roster_with_an_unsound_key_or_one_twice(mesh, key):
    device = mesh.enrol()
    header = Header("home", 1 << 39, int(NOW), int(NOW) + 10)
    sound = device.signing_key().public_key().public_bytes_raw()
    for rows in (
        {"device-1": Enrolled(sound, 1, bytes(32)), "device-2": Enrolled(key, 2, bytes(32))},
        {"device-1": Enrolled(sound, 1, bytes(32)), "device-2": Enrolled(sound, 2, bytes(32))},
        {"device/1": Enrolled(sound, 1, bytes(32))},
    ):
        with pytest.raises(IdentityError):
            device.accept(NOW, roster=sign(roster_body(header, rows), mesh.issuer.certificate, mesh.issuer_key()))


@pytest.mark.parametrize("text", ["", "token", "fedmesh-", "fedmesh-!!!", "fedmesh-" + "A" * 2_000, "fedmesh-gA", "é"])
def test_what_is_no_token(text):
    with pytest.raises(ConfigError, match="copy it whole") as caught:
        Token.parse(text)
    assert text == "" or "fedmesh-A" not in str(caught.value)


def test_no_secret_is_in_a_repr_or_a_refusal(mesh, tmp_path):
    token, nonce = mesh.token(), mesh.issuer.hello().nonce
    enrolment = Enrolment.begin(tmp_path / "device", token)
    refused_reply = mesh.issuer.handle(enrolment.request(token.secret, nonce), None, nonce, NOW + 1e6)
    shown = repr(token) + repr(enrolment) + repr(answer(refused_reply)) + repr(mesh.issuer)
    for secret in (token.secret.hex(), repr(token.secret), token.text):
        assert secret not in shown
    assert token.secret not in (mesh.ca / "register.sqlite").read_bytes()
    assert isinstance(mesh.issuer, Issuer)


def test_a_list_outlives_nothing_that_it_revokes(mesh):
    """A revoked certificate leaves the list when it has expired, not before."""
    device = mesh.enrol()
    mesh.issuer.revoke("device-1", NOW)
    for later, listed in ((13 * DAY_S, True), (15 * DAY_S, False)):
        revocations = Revocations.verified(mesh.issuer.lists(NOW + later)[1], mesh.authority, NOW + later)
        assert revocations.revoked(device.leaf.serial_number) is listed


def test_what_a_thief_of_the_issuers_key_signed_does_not_outlast_the_key(mesh):
    """Neither by the highest version there is, nor by a date: nothing is dated after its issuer's end."""
    device, thief, old = mesh.enrol(), mesh.issuer_key(), mesh.issuer.certificate
    top = (1 << 40) - 1
    end = int(old.not_valid_after_utc.timestamp())
    with pytest.raises(IdentityError) as caught:
        device.accept(NOW, revocations=sign(revocations_body(Header("home", top, end + 1, top), {}), old, thief))
    assert caught.value.code == "expired"
    assert device.now(0.0) < NOW + DAY_S
    assert device.accept(NOW, revocations=sign(revocations_body(Header("home", top, int(NOW), top), {}), old, thief))
    replace_issuer(mesh.ca, mesh.ca / "root.key", NOW)
    assert device.accept(NOW, revocations=open_issuer(mesh.ca).lists(NOW)[1])
    with pytest.raises(IdentityError) as caught:
        device.accept(NOW, revocations=sign(revocations_body(Header("home", top, int(NOW), top), {}), old, thief))
    assert caught.value.code == "issuer"
