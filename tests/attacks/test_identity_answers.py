"""Answers, lists and tokens that a device must not believe, whoever gives it them."""

from pathlib import Path

import pytest
from meshes import NOW, Mesh, Uri, answer, der, leaf, rogue

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.identity import Enrolment, Name, Revocations, Token, open_issuer, replace_issuer
from fedmesh.identity.certificates import DAY_S, new_key
from fedmesh.identity.lists import Enrolled, Header, revocations_body, roster_body, sign
from fedmesh.wire import dumps, loads

P256, NAME = new_key(), Name("home", "device-1")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


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
