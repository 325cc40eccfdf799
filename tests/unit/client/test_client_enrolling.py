"""What a real device has from its first day is what a simulated one has."""

from pathlib import Path

import pytest
from meshes import NOW, Mesh

from fedmesh.client.enrolling import begin_enrolment, pinned_roster
from fedmesh.client.identities import anchor_path, open_identity
from fedmesh.errors import ConfigError
from fedmesh.privacy import Anchor


def test_the_key_signs_secure_sums_and_the_anchor_is_there(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.enrol("device-2")
    folder, token = tmp_path / "device", mesh.token("device-1")
    enrolment, nonce = begin_enrolment(folder, token), mesh.issuer.hello().nonce
    device = enrolment.finish(mesh.issuer.handle(enrolment.request(token.secret, nonce), None, nonce, NOW), NOW)
    roster = pinned_roster(device)
    assert roster.names == ("device-1", "device-2")
    assert open_identity(folder, "device-1").public == roster.key("device-1")
    assert Anchor(anchor_path(folder, "device-1")).heads() == {}


def test_an_anchor_is_not_made_for_a_key_that_is_there(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    begin_enrolment(tmp_path / "device", mesh.token())
    anchor_path(tmp_path / "device", "device-1").unlink()
    begin_enrolment(tmp_path / "device", mesh.token())
    assert not anchor_path(tmp_path / "device", "device-1").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot make the folder"):
        begin_enrolment(tmp_path / "file", mesh.token())
