"""The authority's folder, its register, and what the issuer signs."""

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from meshes import NOW, Mesh, answer, peer_of

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.identity import (
    Enrolment,
    Membership,
    Name,
    Revocations,
    Roster,
    check_peer,
    create_authority,
    open_authority,
    open_issuer,
    replace_issuer,
)
from fedmesh.identity.certificates import DAY_S, due, mesh_of, new_key
from fedmesh.identity.keyfiles import key_pem, read_key
from fedmesh.identity.register import Register
from fedmesh.identity.servers import create_server


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_an_authority_keeps_its_keys_to_itself(mesh: Mesh):
    assert stat.S_IMODE(mesh.ca.stat().st_mode) == 0o700
    found = modes(mesh.ca)
    assert found.keys() == {"root.key", "root.pem", "issuer.key", "issuers.pem", "register.sqlite"}
    assert {found[name] for name in ("root.key", "issuer.key", "register.sqlite")} == {0o600}


def test_root_and_issuer_are_what_they_should_be(mesh: Mesh):
    root, issuer = mesh.authority.root, mesh.issuer.certificate
    assert mesh_of(root) == "home"
    for certificate, length in ((root, 1), (issuer, 0)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, length)
    issuer.verify_directly_issued_by(root)
    assert issuer.serial_number == 1
    assert issuer.not_valid_after_utc < root.not_valid_after_utc


def test_an_authority_is_never_made_over_another(mesh: Mesh, tmp_path: Path):
    before = (mesh.ca / "root.pem").read_bytes()
    for folder in (mesh.ca, mesh.ca / "root.pem"):
        with pytest.raises(ConfigError, match="never made over another"):
            create_authority(folder, "home", NOW)
    assert (mesh.ca / "root.pem").read_bytes() == before
    (tmp_path / "empty").mkdir()
    create_authority(tmp_path / "empty", "other", NOW)
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["", "Home", "a b", "-a", "a" * 64, "a/b", "é"])
def test_a_mesh_without_a_proper_name_is_not_made(tmp_path: Path, name: str):
    with pytest.raises(IdentityError) as caught:
        create_authority(tmp_path / "ca", name, NOW)
    assert caught.value.code == "name"
    assert not (tmp_path / "ca").exists()


def test_the_longest_names_fit(tmp_path: Path):
    create_authority(tmp_path / "ca", "m" * 63, NOW)
    issuer = open_issuer(tmp_path / "ca")
    made = create_server(issuer, "d" * 63, [], tmp_path / "d", NOW)
    assert made.name == Name("m" * 63, "d" * 63)


def test_a_root_key_under_a_passphrase(tmp_path: Path):
    create_authority(tmp_path / "ca", "home", NOW, b"correct horse")
    assert b"ENCRYPTED" in (tmp_path / "ca" / "root.key").read_bytes()
    for passphrase, said in ((None, "is under a passphrase"), (b"wrong", "the passphrase is another")):
        with pytest.raises(ConfigError, match=said):
            replace_issuer(tmp_path / "ca", tmp_path / "ca" / "root.key", NOW, passphrase)
    assert replace_issuer(tmp_path / "ca", tmp_path / "ca" / "root.key", NOW, b"correct horse") == 2


def test_the_root_key_is_not_needed_from_day_to_day(mesh: Mesh):
    (mesh.ca / "root.key").unlink()
    mesh.issuer = open_issuer(mesh.ca)
    assert mesh.enrol().name == Name("home", "device-1")


def test_keys_that_others_can_read_or_that_are_others_are_refused(mesh: Mesh, tmp_path: Path):
    (mesh.ca / "issuer.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_issuer(mesh.ca)
    (mesh.ca / "issuer.key").write_bytes(key_pem(new_key()))
    (mesh.ca / "issuer.key").chmod(0o600)
    with pytest.raises(ConfigError, match="is not the key of"):
        open_issuer(mesh.ca)
    with pytest.raises(ConfigError, match="is not the key of"):
        replace_issuer(mesh.ca, mesh.ca / "issuer.key", NOW)
    with pytest.raises(ConfigError, match="there is no authority"):
        open_issuer(tmp_path / "nowhere")
    (mesh.ca / "issuer.key").write_bytes(b"key")
    with pytest.raises(ConfigError, match="holds no key"):
        open_issuer(mesh.ca)


def test_devices_outlive_a_replaced_issuer(mesh: Mesh):
    """Those that are in the register renew with certificates of the old one, and are told of the new."""
    device, other = mesh.enrol("device-1"), mesh.enrol("device-2")
    assert replace_issuer(mesh.ca, mesh.ca / "root.key", NOW) == 2
    mesh.issuer = open_issuer(mesh.ca)
    assert not device.due(NOW)
    roster, revocations = mesh.issuer.lists(NOW)
    assert device.accept(NOW, roster=roster, revocations=revocations)
    assert device.due(NOW)
    with pytest.raises(IdentityError) as caught:
        device.check([other.leaf.public_bytes(Encoding.DER)], expected=None, clock=NOW)
    assert caught.value.code == "authority"
    assert peer_of(other).generation == 1
    for member in (device, other):
        serial, hello, renewal = member.leaf.serial_number, mesh.issuer.hello(), member.renewal()
        chain = [member.leaf.public_bytes(Encoding.DER)]
        shown = check_peer(chain, authority=mesh.issuer.authority, expected=None, revocations=None, now=NOW)
        renewal.finish(mesh.issuer.handle(renewal.request(hello.nonce), shown, hello.nonce, NOW), NOW)
        assert member.leaf.serial_number != serial
        assert not member.due(NOW)
        assert member.authority.oldest == 2
    assert Membership(device.folder).authority.oldest == 2
    assert peer_of(device).generation == 2


def test_a_leaf_lives_as_long_as_was_asked_for(mesh: Mesh):
    for days in (7, 14, 30):
        issuer = open_issuer(mesh.ca, life_s=days * DAY_S)
        leaf = create_server(issuer, f"server-{days}", ["127.0.0.1"], mesh.folder / f"{days}", NOW).leaf
        assert leaf.not_valid_after_utc.timestamp() == NOW + days * DAY_S
        assert not due(leaf, NOW + days * DAY_S * 0.66)
        assert due(leaf, NOW + days * DAY_S * 0.67)
    for days in (6, 31):
        with pytest.raises(IdentityError, match="7 to 30 days"):
            open_issuer(mesh.ca, life_s=days * DAY_S)


def test_no_leaf_outlives_its_issuer(mesh: Mesh):
    end = mesh.issuer.certificate.not_valid_after_utc.timestamp()
    leaf = create_server(mesh.issuer, "late", [], mesh.folder / "late", end - 2 * DAY_S).leaf
    assert leaf.not_valid_after_utc.timestamp() == end
    with pytest.raises(ConfigError, match="make the next with fedmesh ca issuer"):
        create_server(mesh.issuer, "later", [], mesh.folder / "later", end - 60)


def test_a_server_has_host_names_and_keeps_them(mesh: Mesh):
    made = create_server(mesh.issuer, "broker", ["broker.local", "127.0.0.1", "::1"], mesh.folder / "broker", NOW)
    serial = made.leaf.serial_number
    mesh.renew(made, now=NOW + DAY_S)
    names = made.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert made.leaf.serial_number != serial
    assert names.get_values_for_type(x509.DNSName) == ["broker.local"]
    assert sorted(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["fedmesh://home/broker"]
    assert modes(made.folder)["tls.pem"] == 0o600
    for host in ("", "a b", "ü.example", "-x", "a/b"):
        with pytest.raises(ConfigError, match="neither a DNS name"):
            create_server(mesh.issuer, "other", [host], mesh.folder / f"other{len(host)}{ord((host + ' ')[0])}", NOW)
    with pytest.raises(ConfigError, match="not empty"):
        create_server(mesh.issuer, "third", [], mesh.folder / "broker", NOW)
    with pytest.raises(IdentityError) as caught:
        create_server(mesh.issuer, "broker", [], mesh.folder / "broker-2", NOW)
    assert caught.value.code == "token"


def test_lists_say_what_is_and_are_signed_again_when_that_changes(mesh: Mesh):
    first = mesh.issuer.lists(NOW)
    assert mesh.issuer.lists(NOW + 3_599) == first
    device = mesh.enrol("device-1")
    roster = Roster.verified(mesh.issuer.lists(NOW)[0], mesh.authority, NOW)
    assert roster.keys == {"device-1": device.signing_key().public_key().public_bytes_raw()}
    assert roster.enrolled["device-1"].serial == device.leaf.serial_number
    assert mesh.issuer.lists(NOW)[1] == first[1]
    mesh.issuer.revoke("device-1", NOW)
    roster_data, data = mesh.issuer.lists(NOW)
    revocations = Revocations.verified(data, mesh.authority, NOW)
    assert dict(revocations.serials) == {device.leaf.serial_number: "device-1"}
    assert Roster.verified(roster_data, mesh.authority, NOW).keys == {}
    later = mesh.issuer.lists(NOW + 3_600)
    newer = Revocations.verified(later[1], mesh.authority, NOW + 3_600)
    assert newer.header.version > revocations.header.version
    assert newer.header.issued == NOW + 3_600
    assert not newer.stale(newer.header.next_update)
    assert newer.stale(newer.header.next_update + 1)


def test_a_register_that_was_put_back_does_not_go_back_in_version(mesh: Mesh):
    device = mesh.enrol("device-1")
    before = (mesh.ca / "register.sqlite").read_bytes()
    mesh.enrol("device-2", now=NOW + 10)
    device.accept(NOW + 20, roster=mesh.issuer.lists(NOW + 20)[0])
    (mesh.ca / "register.sqlite").write_bytes(before)
    mesh.enrol("device-3", now=NOW + 60)
    assert device.accept(NOW + 60, roster=mesh.issuer.lists(NOW + 60)[0])


def test_a_token_is_used_once_however_many_ask_at_once(mesh: Mesh, tmp_path: Path):
    token = mesh.token("device-1")
    enrolments = [Enrolment.begin(tmp_path / f"copy-{number}", token) for number in range(4)]
    issuers = [open_issuer(mesh.ca) for _ in enrolments]
    replies: list[dict[str, object]] = []

    def ask(issuer, enrolment):
        nonce = issuer.hello().nonce
        replies.append(dict(answer(issuer.handle(enrolment.request(token.secret, nonce), None, nonce, NOW))))

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(issuers, enrolments, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.get("refused", "granted") for reply in replies) == ["granted", "token", "token", "token"]


def test_revoking_takes_back_tokens_too(mesh: Mesh, tmp_path: Path):
    token = mesh.token("device-1")
    assert mesh.issuer.revoke("device-1", NOW) == 0
    enrolment = Enrolment.begin(tmp_path / "device", token)
    nonce = mesh.issuer.hello().nonce
    with pytest.raises(IdentityError) as caught:
        enrolment.finish(mesh.issuer.handle(enrolment.request(token.secret, nonce), None, nonce, NOW), NOW)
    assert caught.value.code == "token"
    with pytest.raises(IdentityError, match="nobody called"):
        mesh.issuer.revoke("device-1", NOW)


def test_what_was_over_long_ago_is_forgotten(mesh: Mesh):
    device, later = mesh.enrol("device-1"), NOW + 200 * DAY_S
    mesh.issuer.token("device-2", later, ttl_s=60)
    _, register = open_authority(mesh.ca)
    with register.reading() as rows:
        assert rows.certified(device.leaf.serial_number) is None
        assert [party.id for party, _ in rows.parties()] == ["device-1"]


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_a_damaged_register_is_not_taken_for_an_empty_one(mesh: Mesh, content: bytes):
    (mesh.ca / "register.sqlite").write_bytes(content)
    with pytest.raises(ConfigError, match="register"):
        open_issuer(mesh.ca)


def test_a_register_is_made_once_and_of_one_kind(tmp_path: Path):
    Register.create(tmp_path / "register")
    with pytest.raises(ConfigError, match="cannot make"):
        Register.create(tmp_path / "register")
    with pytest.raises(ConfigError, match="cannot be used"):
        Register(tmp_path / "nowhere")
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(ConfigError, match="is not a register"):
        Register(tmp_path / "other")


def test_what_fails_halfway_changes_nothing(mesh: Mesh):
    token = mesh.token("device-1")
    _, register = open_authority(mesh.ca)

    def fail_halfway():
        with register.writing() as rows:
            assert rows.drop_tokens("device-1") == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    key, signing = new_key().public_key(), Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(ConfigError):
        mesh.issuer.server("broker", key, signing, ["not a host"], NOW, again=False)
    with register.reading() as rows:
        assert rows.party("broker") is None
        assert list(rows.waiting_tokens(NOW)) == [token.name.id]


def test_keys_are_read_as_they_were_written(tmp_path: Path):
    key = new_key()
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_bytes(key_pem(key, b"x"))
    assert read_key(tmp_path / "key", b"x").public_key() == key.public_key()
    (tmp_path / "key").write_bytes(bytes(1 << 17))
    with pytest.raises(ConfigError, match="larger than"):
        read_key(tmp_path / "key")
