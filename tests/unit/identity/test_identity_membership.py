"""A device's folder: begun, interrupted, taken up, renewed, damaged."""

import re
import stat
from pathlib import Path

import pytest
from meshes import NOW, Mesh, answer, der

from fedmesh import identity
from fedmesh.errors import IDENTITY_CODES, ConfigError, IdentityError
from fedmesh.identity import Enrolment, Membership, Name, Token, offline_request
from fedmesh.identity.certificates import DAY_S
from fedmesh.identity.requests import OFFLINE


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def test_what_an_enrolled_device_has(mesh: Mesh):
    device = mesh.enrol("device-1")
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in device.folder.iterdir()}
    assert found.keys() == {
        "device-1.key", "tls.pem", "root.pem", "roster.signed", "revocations.signed", "time.floor",
    }  # fmt: skip
    assert {found[name] for name in ("device-1.key", "tls.pem", "time.floor")} == {0o600}
    assert stat.S_IMODE(device.folder.stat().st_mode) == 0o700
    assert len((device.folder / "device-1.key").read_bytes()) == 32
    opened = Membership(device.folder)
    assert (opened.name, opened.leaf, opened.authority) == (device.name, device.leaf, device.authority)
    assert repr(opened) == "Membership(fedmesh://home/device-1)"


def test_an_answer_that_was_lost_is_asked_for_again(mesh: Mesh, tmp_path: Path):
    """The token is used up, and the device has nothing: the same keys get the same certificate."""
    token, folder = mesh.token(), tmp_path / "device"
    first = Enrolment.begin(folder, token)
    nonce = mesh.issuer.hello().nonce
    lost = answer(mesh.issuer.handle(first.request(token.secret, nonce), None, nonce, NOW))
    again = Enrolment.begin(folder, token)
    nonce = mesh.issuer.hello().nonce
    made = again.finish(mesh.issuer.handle(again.request(token.secret, nonce), None, nonce, NOW), NOW)
    assert der(made.leaf) == lost["certificate"]
    assert not (folder / "enrolment.pending").exists()


def test_an_enrolment_begun_for_another_root_or_name_begins_anew(mesh: Mesh, tmp_path: Path):
    folder, token = tmp_path / "device", mesh.token()
    Enrolment.begin(folder, token)
    before, key = (folder / "enrolment.pending").read_bytes(), (folder / "device-1.key").read_bytes()
    Enrolment.begin(folder, mesh.token())
    assert (folder / "enrolment.pending").read_bytes() == before
    Enrolment.begin(folder, Token(token.name, token.secret, bytes(32)))
    assert (folder / "enrolment.pending").read_bytes() != before
    assert (folder / "device-1.key").read_bytes() == key
    with pytest.raises(ConfigError, match=r"another device's, as device-1\.key shows"):
        Enrolment.begin(folder, mesh.token("device-2"))


def test_without_a_network(mesh: Mesh, tmp_path: Path):
    token = mesh.token()
    carried = Enrolment.begin(tmp_path / "device", token).offline()
    assert token.secret not in carried
    reply = mesh.issuer.handle(offline_request(carried, token.secret), None, OFFLINE, NOW)
    assert Enrolment(tmp_path / "device").finish(reply, NOW).name == Name("home", "device-1")
    with pytest.raises(ConfigError, match="no enrolment was begun"):
        Enrolment(tmp_path / "device")
    with pytest.raises(IdentityError):
        offline_request(b"x", token.secret)


def test_a_device_that_is_enrolled_anew_keeps_its_ed25519_key(mesh: Mesh):
    first = mesh.enrol("device-1")
    second = mesh.enrol("device-1", again=True)
    assert second.roster.keys == first.roster.keys
    assert second.revocations.revoked(first.leaf.serial_number)
    assert not second.revocations.revoked(second.leaf.serial_number)


def test_when_to_renew(mesh: Mesh):
    device = mesh.enrol()
    assert not device.due(NOW + 9 * DAY_S)
    assert device.due(NOW + 10 * DAY_S)
    assert not device.expired(NOW + 14 * DAY_S)
    assert device.expired(NOW + 14 * DAY_S + 1)
    before = (device.folder / "tls.pem").read_bytes()
    mesh.renew(device, now=NOW + 10 * DAY_S)
    assert not device.due(NOW + 19 * DAY_S)
    assert (device.folder / "tls.pem").read_bytes() != before
    assert Membership(device.folder).leaf == device.leaf
    assert device.now(0.0) >= NOW + 10 * DAY_S - 300


def test_a_renewal_that_is_refused_leaves_what_there_was(mesh: Mesh):
    device = mesh.enrol()
    before = (device.folder / "tls.pem").read_bytes()
    renewal, nonce = device.renewal(), mesh.issuer.hello().nonce
    with pytest.raises(IdentityError, match="the issuer refused: this needs a certificate"):
        renewal.finish(mesh.issuer.handle(renewal.request(nonce), None, nonce, NOW), NOW)
    assert (device.folder / "tls.pem").read_bytes() == before


def test_where_the_issuer_is(mesh: Mesh):
    device = mesh.enrol()
    assert device.address == ""
    device.remember_address("ca.local:7443")
    assert Membership(device.folder).address == "ca.local:7443"


def test_a_folder_that_is_none_or_damaged(mesh: Mesh, tmp_path: Path):
    with pytest.raises(ConfigError, match="nobody is enrolled"):
        Membership(tmp_path / "nowhere")
    device, other = mesh.enrol("device-1"), mesh.enrol("device-2")
    whole = {path: path.read_bytes() for path in device.folder.iterdir()}
    for name, content in (
        ("tls.pem", b""),
        ("tls.pem", (mesh.ca / "issuers.pem").read_bytes() * 2),
        ("root.pem", b"x"),
        ("root.pem", (mesh.ca / "issuers.pem").read_bytes()),
        ("roster.signed", whole[device.folder / "revocations.signed"]),
        ("revocations.signed", b""),
        ("time.floor", b""),
    ):
        (device.folder / name).write_bytes(content)
        with pytest.raises(ConfigError):
            Membership(device.folder)
        (device.folder / name).write_bytes(whole[device.folder / name])
    (device.folder / "device-1.key").write_bytes(bytes(31))
    with pytest.raises(ConfigError, match="enrol the device anew"):
        Membership(device.folder).signing_key()
    (tmp_path / "device-9").mkdir(mode=0o700)
    (tmp_path / "device-9" / "device-9.key").write_bytes(bytes(32))
    (tmp_path / "device-9" / "device-9.key").chmod(0o600)
    (tmp_path / "device-9" / "enrolment.pending").write_bytes(b"x")
    (tmp_path / "device-9" / "enrolment.pending").chmod(0o600)
    with pytest.raises(ConfigError, match="is damaged: remove it"):
        Enrolment(tmp_path / "device-9")
    assert other.name.id == "device-2"


def test_a_tls_key_that_others_can_read_is_refused(mesh: Mesh):
    device = mesh.enrol()
    device.tls_path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Membership(device.folder)


def test_every_code_is_one_that_a_counter_may_have_for_a_label():
    used = set()
    for path in Path(identity.__file__).parent.glob("*.py"):
        used |= set(re.findall(r'code="([a-z]*)"', path.read_text()))
    assert used == IDENTITY_CODES


def test_a_list_that_was_taken_over_tells_the_time(mesh: Mesh):
    device = mesh.enrol()
    for later, kind in ((DAY_S, "roster"), (2 * DAY_S, "revocations")):
        lists = dict(zip(("roster", "revocations"), mesh.issuer.lists(NOW + later), strict=True))
        assert device.accept(0.0, **{kind: lists[kind]})
        assert Membership(device.folder).now(0.0) == NOW + later
