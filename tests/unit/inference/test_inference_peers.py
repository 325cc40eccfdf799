"""Members come in; others do not, and who is revoked while connected is cut when the lists arrive."""

from pathlib import Path

import pytest
from meshes import Mesh, der, leaf, rogue

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.identity import Membership
from fedmesh.identity.certificates import DAY_S
from fedmesh.inference.serving.peers import Guard


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def guard_of(mesh: Mesh, *, later_s: float = 0) -> Guard:
    mesh.enrol("node")
    return Guard(mesh.folder / "node", clock=lambda: mesh.begun + later_s)


def test_members_only(mesh: Mesh) -> None:
    guard = guard_of(mesh)
    assert guard.admit("one", der(mesh.enrol("device-1").leaf)).name.id == "device-1"
    _, issuer, key = rogue()
    for shown in (None, b"junk", der(leaf(issuer, key))):
        with pytest.raises(IdentityError):
            guard.admit("other", shown)
    assert sum(guard.counts.values()) == 3
    assert guard.refresh() == {}


def test_a_revoked_member_is_cut_when_the_list_is_there(mesh: Mesh) -> None:
    guard = guard_of(mesh)
    device = mesh.enrol("device-1")
    guard.admit("session", der(device.leaf))
    guard.admit("other", der(mesh.enrol("device-2").leaf))
    mesh.issuer.revoke("device-1", mesh.begun)
    assert guard.refresh() == {}  # the list is not here yet
    revocations = mesh.issuer.lists(mesh.begun)[1]
    Membership(mesh.folder / "node").accept(mesh.begun, revocations=revocations)  # as another process does
    cut = guard.refresh()
    assert list(cut) == ["session"]
    assert guard.counts == {"cut": 1}
    guard.left("session")
    assert guard.refresh() == {}
    with pytest.raises(IdentityError, match="revoked"):
        guard.admit("again", der(device.leaf))


def test_a_damaged_folder_keeps_what_was_read(mesh: Mesh) -> None:
    guard = guard_of(mesh)
    (mesh.folder / "node" / "revocations.signed").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="damaged"):
        guard.refresh()
    assert guard.admit("one", der(mesh.enrol("device-1").leaf))


def test_ready_while_the_certificate_is_good_for_a_day(mesh: Mesh) -> None:
    assert guard_of(mesh).not_ready() == ""
    late = guard_of(Mesh(mesh.folder / "late"), later_s=13.5 * DAY_S)
    assert "renew" in late.not_ready()


def test_nobody_is_enrolled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody is enrolled"):
        Guard(tmp_path)
