"""Rights on the roster: given, taken back, gone with a revocation, and in a register that knew none."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from meshes import NOW, Mesh

from fedmesh.errors import IdentityError
from fedmesh.identity.lists import Enrolled, Header, Roster, roster_body, sign
from fedmesh.wire import dumps, loads


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def test_a_right_is_on_the_next_roster_and_gone_with_a_revocation(mesh: Mesh):
    device = mesh.enrol("device-1")
    assert not device.roster.has_right("device-1", "runs")

    def latest() -> bool:
        roster, revocations = mesh.issuer.lists(NOW)
        device.accept(NOW, roster=roster, revocations=revocations)
        return device.roster.has_right("device-1", "runs")

    mesh.issuer.grant("device-1", "runs")
    mesh.issuer.grant("device-1", "runs")
    assert latest()
    assert not device.roster.has_right("device-1", "dance")
    assert not device.roster.has_right("nobody", "runs")
    mesh.issuer.grant("device-1", "runs", take_back=True)
    assert not latest()
    mesh.issuer.grant("device-1", "runs")
    mesh.issuer.revoke("device-1", NOW)
    with pytest.raises(IdentityError, match="nobody called"):
        mesh.issuer.grant("device-1", "runs")
    with pytest.raises(IdentityError, match="is no right"):
        mesh.issuer.grant("device-1", "dance")
    mesh.enrol("device-1", again=True)
    assert not latest()


def test_a_register_from_before_there_were_rights(mesh: Mesh):
    device = mesh.enrol("device-1")
    with closing(sqlite3.connect(mesh.ca / "register.sqlite")) as old:
        old.execute("DROP TABLE rights")
        old.commit()
    assert mesh.issuer.revoke(mesh.enrol("device-2").name.id, NOW) == 1
    with closing(sqlite3.connect(mesh.ca / "register.sqlite")) as old:
        old.execute("DROP TABLE rights")
        old.commit()
    roster, _ = mesh.issuer.lists(NOW)
    device.accept(NOW, roster=roster)
    mesh.issuer.grant("device-1", "runs")
    roster, _ = mesh.issuer.lists(NOW)
    device.accept(NOW, roster=roster)
    assert device.roster.has_right("device-1", "runs")


@pytest.mark.parametrize("rights", [[], "runs", ["runs"] * 17, [7], ["x" * 41], [["runs"]]])
def test_rights_that_are_malformed(mesh: Mesh, rights: object):
    mesh.enrol("device-1")
    header = Header("home", 1, int(NOW), int(NOW) + 1)
    body = loads(roster_body(header, {"device-1": Enrolled(bytes(range(32)), 7, bytes(32))}), max_bytes=1 << 16)
    body["devices"][0][1] = mesh.enrol("device-3").roster.enrolled["device-3"].signing_key
    body["devices"][0].append(rights)
    signed = sign(dumps(body), mesh.issuer.certificate, mesh.issuer._key)
    with pytest.raises(IdentityError, match=r"rights|cannot be read") as caught:
        Roster.verified(signed, mesh.authority, NOW)
    assert caught.value.code == "malformed"
