"""Whoever gets at the files of a device or a repository: a slot proves who allowed it, damage is not passed over."""

from dataclasses import replace
from pathlib import Path

import pytest
from registry_attackers import installed, next_targets
from registry_worlds import FIRST, SECOND, World, code_of, golden, with_first
from tuf.api.metadata import Metadata

from fedmesh.errors import ConfigError
from fedmesh.registry.proof import Proof, verify_folder
from fedmesh.registry.repository import Repository
from fedmesh.registry.signing import create_key


@pytest.fixture
def world(tmp_path: Path) -> World:
    return with_first(tmp_path)


def test_a_proof_of_something_else_shows_nothing(world):
    installed(world)
    slot = world.folder / "device-1" / "slots" / "a"
    proof = Proof.decode((slot / "proof.cbor").read_bytes())
    manifest = (slot / "manifest.cbor").read_bytes()
    proof.check(world.root, 1, manifest)
    timestamp = (world.public / "metadata" / "timestamp.json").read_bytes()
    assert code_of(lambda: proof.check(timestamp, 1, manifest)) == "malformed"
    assert code_of(lambda: replace(proof, targets=timestamp).check(world.root, 1, manifest)) == "malformed"
    assert code_of(lambda: replace(proof, targets=b"[" * 9000).check(world.root, 1, manifest)) == "malformed"
    assert code_of(lambda: replace(proof, roots=(timestamp,)).check(world.root, 1, manifest)) == "malformed"
    assert code_of(lambda: proof.check(world.root, 2, manifest)) == "missing"
    assert code_of(lambda: proof.check(world.root, 1, manifest + b"\0")) == "hash"


def test_a_proof_by_a_root_that_only_signs_itself_shows_nothing(world, tmp_path):
    installed(world)
    slot = world.folder / "device-1" / "slots" / "a"
    proof, manifest = Proof.decode((slot / "proof.cbor").read_bytes()), (slot / "manifest.cbor").read_bytes()
    rogue, root, targets = create_key(tmp_path / "rogue.key"), Metadata.from_bytes(world.root), next_targets(world)
    for role in ("root", "targets"):
        for keyid in list(root.signed.roles[role].keyids):
            root.signed.revoke_key(keyid, role)
        root.signed.add_key(rogue.public_key, role)
    root.signed.version = 2
    root.sign(rogue)
    targets.sign(rogue)
    forged = Proof((*proof.roots, root.to_bytes()), targets.to_bytes())
    assert code_of(lambda: forged.check(world.root, 1, manifest)) == "signature"
    assert code_of(lambda: forged.check(root.to_bytes(), 1, manifest)) == ""  # to whom trusts that root, it would
    root.signed.version = 3
    root.sign(rogue)
    forged = Proof((*proof.roots, root.to_bytes()), targets.to_bytes())
    assert code_of(lambda: forged.check(world.root, 1, manifest)) == "rollback"


def test_a_slot_that_was_tampered_with(world):
    installed(world)
    world.publish(SECOND)
    installed(world)
    slot = world.folder / "device-1" / "slots" / "b"
    assert verify_folder(slot, world.root).version == 2
    (slot / "model.onnx").write_bytes(FIRST)
    assert code_of(lambda: verify_folder(slot, world.root)) == "hash"
    with world.device() as device:  # a start notices, and goes back
        assert device.slots.state.running.version == 1
        assert world.running(device) == FIRST
        assert device.update() is not None  # and gets the version again
        assert world.running(device) == SECOND


def test_a_golden_set_that_was_exchanged_is_not_verified(world):
    installed(world)
    slot = world.folder / "device-1" / "slots" / "a"
    whole = (slot / "golden.cbor").read_bytes()
    (slot / "golden.cbor").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert code_of(lambda: verify_folder(slot, world.root)) == "hash"


def test_a_proof_by_others_shows_nothing(world, tmp_path):
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    other.publish(FIRST, golden=golden())
    with other.device() as device:
        device.update()
    slot = tmp_path / "other" / "device-1" / "slots" / "a"
    assert verify_folder(slot, other.root).version == 1
    assert code_of(lambda: verify_folder(slot, world.root)) == "signature"


def test_the_installer_of_another_process_is_not_disturbed(world):
    with world.device(), pytest.raises(ConfigError, match="another process"):
        world.device()


def test_damaged_metadata_is_not_forgotten(world):
    """Or else an older repository would be believed again."""
    installed(world)
    path = world.folder / "device-1" / "metadata.cbor"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="damaged"):
        world.device()


def test_keys_are_nowhere_but_in_their_files(world, tmp_path):
    keys = tmp_path / "repository" / "keys"
    secrets = [path.read_bytes() for path in keys.glob("*.key")]
    assert len(secrets) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in (keys, *keys.glob("*.key")))
    everything = b"".join(path.read_bytes() for path in world.public.rglob("*") if path.is_file())
    assert all(secret not in everything and secret.hex().encode() not in everything for secret in secrets)
    (keys / "targets.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Repository.open(tmp_path / "repository")
