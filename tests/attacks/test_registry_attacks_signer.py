"""What rogue, stolen or misused keys may sign: too few good signatures are none, and what lies is found out."""

import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from registry_attackers import Frozen, installed, next_targets, refused, snapshot_of
from registry_worlds import FIRST, SECOND, Spying, World, weights, with_first
from tuf.api.metadata import Metadata

from fedmesh.errors import ConfigError
from fedmesh.registry import FolderSource, Rollout
from fedmesh.registry.describing import Facts, stored
from fedmesh.registry.founding import replace_signers
from fedmesh.registry.signing import create_key, read_public_key, read_signer
from fedmesh.registry.staging import Staged


@pytest.fixture
def world(tmp_path: Path) -> World:
    return with_first(tmp_path)


def resigned(world: World, role: str, number: str, key, change) -> Frozen:
    """A mirror with one role changed and signed by `key`."""
    files = snapshot_of(world.public)
    name = f"metadata/{number}{role}.json"
    metadata = Metadata.from_bytes(files[name])
    change(metadata.signed)
    metadata.sign(key)
    files[name] = metadata.to_bytes()
    return Frozen(files)


def test_another_key_signs_the_timestamp(world, tmp_path):
    rogue = create_key(tmp_path / "rogue.key")
    refused(world, resigned(world, "timestamp", "", rogue, lambda signed: None), "signature")


def with_targets(world: World, metadata: Metadata) -> Frozen:
    """A mirror whose snapshot and timestamp, by the coordinator's stolen key, lead to these targets."""
    from fedmesh.registry.roles import meta_file, to_bytes

    files, online = snapshot_of(world.public), read_signer(world.folder / "repository" / "keys" / "online.key")
    data = to_bytes(metadata)
    files[f"metadata/{metadata.signed.version}.targets.json"] = data
    timestamp = Metadata.from_bytes(files["metadata/timestamp.json"])
    snapshot = Metadata.from_bytes(files[f"metadata/{timestamp.signed.snapshot_meta.version}.snapshot.json"])
    snapshot.signed.meta["targets.json"] = meta_file(metadata.signed.version, data)
    snapshot.signed.version += 1
    snapshot.sign(online)
    files[f"metadata/{snapshot.signed.version}.snapshot.json"] = to_bytes(snapshot)
    timestamp.signed.snapshot_meta = meta_file(snapshot.signed.version, to_bytes(snapshot))
    timestamp.signed.version += 1
    timestamp.sign(online)
    files["metadata/timestamp.json"] = to_bytes(timestamp)
    return Frozen(files)


def test_the_coordinators_stolen_key_lets_nothing_run(world, tmp_path):
    """It signs timestamps, snapshots and rollouts; it may not sign which versions may run."""
    installed(world)
    targets = next_targets(world)
    targets.sign(read_signer(world.folder / "repository" / "keys" / "online.key"))
    refused(world, with_targets(world, targets), "signature")


def two_of_three(tmp_path: Path) -> tuple[World, list[Path]]:
    keys = [tmp_path / f"signer-{number}.key" for number in range(3)]
    for key in keys:
        create_key(key)
    public = [read_public_key(key.with_suffix(".pub")) for key in keys]
    made = World(tmp_path, signers=public, threshold=2)
    made.publish(FIRST)
    made.repository.add_signature(keys[0])
    made.repository.add_signature(keys[1])
    return made, keys


def test_one_good_and_one_rogue_signature_are_one(tmp_path):
    world, keys = two_of_three(tmp_path)
    installed(world)
    rogue, targets = create_key(tmp_path / "rogue.key"), next_targets(world)
    targets.sign(read_signer(keys[0]))
    targets.sign(rogue, append=True)
    refused(world, with_targets(world, targets), "signature")
    good = targets.signatures[read_signer(keys[0]).public_key.keyid]  # under the id of one who has not signed
    forged = json.loads(targets.to_bytes())
    forged["signatures"] = [
        {"keyid": good.keyid, "sig": good.signature},
        {"keyid": read_signer(keys[1]).public_key.keyid, "sig": good.signature},
    ]
    refused(world, with_targets(world, Metadata.from_bytes(json.dumps(forged).encode())), "signature", name="device-2")
    targets.sign(read_signer(keys[2]), append=True)  # and with a second good one it is believed
    with world.device("device-3", source=with_targets(world, targets)) as device:
        assert device._trust.refresh(with_targets(world, targets), world.now) is not None


def test_too_few_signatures_publish_nothing(tmp_path):
    world, keys = two_of_three(tmp_path)
    installed(world)
    version = world.publish(SECOND)
    assert version.missing == 2
    assert world.repository.add_signature(keys[0]).missing == 1
    assert world.repository.add_signature(keys[0]).missing == 1  # the same one twice is one
    with world.device() as device:
        assert device.update() is None
    with pytest.raises(ConfigError, match="not one of a signer"):
        world.repository.add_signature(world.folder / "repository" / "keys" / "online.key")
    assert world.repository.add_signature(keys[2]).missing == 0
    installed(world)


def test_an_under_signed_root_is_not_taken_over(world, tmp_path):
    rogue = create_key(tmp_path / "rogue.key")
    files = snapshot_of(world.public)
    root = Metadata.from_bytes(files["metadata/1.root.json"])
    root.signed.version = 2
    root.signed.add_key(rogue.public_key, "root")
    root.signed.add_key(rogue.public_key, "targets")
    root.sign(rogue)
    refused(world, Frozen({**files, "metadata/2.root.json": root.to_bytes()}), "signature")


def test_a_root_that_skips_a_version_is_not_taken_over(world):
    signer = read_signer(world.folder / "repository" / "keys" / "root.key")
    files = snapshot_of(world.public)
    root = Metadata.from_bytes(files["metadata/1.root.json"])
    root.signed.version = 3
    root.sign(signer)
    refused(world, Frozen({**files, "metadata/2.root.json": root.to_bytes()}), "rollback")


def test_what_a_revoked_signer_signed_is_void(world, tmp_path):
    installed(world)
    repository = world.folder / "repository"
    stolen = read_signer(repository / "keys" / "targets.key")
    create_key(tmp_path / "new.key")
    (repository / "keys" / "targets.key").unlink()
    public = read_public_key(tmp_path / "new.pub")
    replace_signers(repository, [repository / "keys" / "root.key"], targets=[public], clock=world.clock)
    refused(world, Spying(world.public), "signature")  # nobody has signed anew: what the old key signed is void
    world.reopened()
    world.repository.add_signature(tmp_path / "new.key")
    with world.device() as device:
        assert device.update() is None  # the same version, under the new signers
    targets = next_targets(world)
    targets.sign(stolen)
    refused(world, with_targets(world, targets), "signature")


def test_a_stolen_coordinators_key_is_replaced(world):
    installed(world)
    repository = world.folder / "repository"
    old = snapshot_of(world.public)
    replace_signers(repository, [repository / "keys" / "root.key"], online=True, clock=world.clock)
    (repository / "keys" / "online.key").unlink()
    assert world.reopened().publish(world.folder / "model.onnx", Facts(round=2)).missing == 0
    installed(world)
    new_root = snapshot_of(world.public)["metadata/2.root.json"]
    refused(world, Frozen({**old, "metadata/2.root.json": new_root}), "signature", name="device-2")


def test_the_rollout_cannot_lead_back(world):
    """Who holds the coordinator's key may choose among versions that may run, but not an older one than ran."""
    world.publish(SECOND)
    installed(world)
    world.repository.roll_out(Rollout(1))
    refused(world, Spying(world.public), "downgrade")


def test_the_rollout_can_name_only_what_may_run(world):
    with pytest.raises(ConfigError, match="no version 7"):
        world.repository.roll_out(Rollout(7))
    installed(world)
    world.repository._notary.commit(rollout=Rollout(7))  # as a thief would
    refused(world, Spying(world.public), "missing")


def test_a_manifest_under_a_higher_number(world):
    """A signer who signs an old manifest under a new name."""
    installed(world)
    targets, key = next_targets(world), read_signer(world.folder / "repository" / "keys" / "targets.key")
    targets.signed.targets["manifest-2.cbor"] = targets.signed.targets["manifest-1.cbor"]
    targets.signed.targets["manifest-2.cbor"].path = "manifest-2.cbor"
    targets.sign(key)
    world.repository._notary.commit(targets=targets, rollout=Rollout(2))
    source = Spying(world.public)
    sha256 = targets.signed.targets["manifest-2.cbor"].hashes["sha256"]
    old = (world.public / "targets" / f"{sha256}.manifest-1.cbor").read_bytes()
    (world.public / "targets" / f"{sha256}.manifest-2.cbor").write_bytes(old)
    refused(world, source, "downgrade")


def with_delta(world: World, made: bytes) -> None:
    """Publishes SECOND with a delta against FIRST that a signer has signed, whatever it is."""
    version = world.publish(SECOND)
    variant = version.manifest.variants[0]
    blob = stored(made, world.repository._shelf.chunks)
    delta = replace(variant.deltas[0], blob=blob)
    manifest = replace(version.manifest, variants=(replace(variant, deltas=(delta,)),))
    targets = world.repository._targets([manifest])
    world.repository._finish(Staged(manifest, Rollout(2), targets))


def frames(*streams: bytes, changes: int) -> bytes:
    """A delta of FIRST whose streams are these, whatever they expand to."""
    import zstandard

    packed = [zstandard.ZstdCompressor(level=19).compress(stream) for stream in streams]
    head = struct.pack("<4sQQQII", b"fmd1", len(FIRST), len(SECOND), changes, len(packed[0]), len(packed[1]))
    return head + b"".join(packed)


@pytest.mark.parametrize(
    "made",
    [
        frames(bytes(1 << 26), b"", b"", changes=0),
        frames(b"", bytes(1 << 26), b"", changes=0),
        frames(b"", b"", bytes(1 << 26), changes=0),
        frames(b"\xff" * 3000, b"", b"", changes=0),
        frames(b"\xff" * 12, b"", b"", changes=0),
        frames(b"\xff" * 12 + b"\0", b"\1", b"", changes=1),
        frames(b"\0" * 10, b"\1" * 9, b"", changes=10),
        frames(b"\0" * 10, b"\1" * 10, b"", changes=10),
        frames(b"", b"", b"", changes=1 << 60),
        frames(b"", b"", b"", changes=0)[:20],
        frames(b"", b"", b"", changes=0)[:-1],
        struct.pack("<4sQQQII", b"fmd1", len(FIRST), 1 << 60, 0, 0, 0),
        struct.pack("<4sQQQII", b"fmd1", len(FIRST), len(SECOND), 0, 1 << 31, 1 << 31),
        b"fmd2" + bytes(60),
    ],
    ids=range(14),
)
def test_a_delta_that_is_a_bomb_or_another_falls_back_to_the_file(world, made):
    installed(world)
    with_delta(world, made)
    with world.device() as device:
        tracemalloc.start()
        try:
            assert device.update() is not None
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert device.refused["delta"] == 1
        assert world.running(device) == SECOND
    assert peak < 1 << 25


@pytest.mark.parametrize("change", [{"sha256": bytes(32)}, {"chunks": (bytes(32),)}])
def test_a_manifest_whose_chunks_make_another_file(world, change):
    """Signed, and contradicting itself: nothing gets into a slot that has not the hash of the whole."""
    installed(world)
    version = world.publish(weights(7))
    variant = version.manifest.variants[0]
    blob = replace(variant.blob, **change)
    manifest = replace(version.manifest, variants=(replace(variant, blob=blob, deltas=()),))
    (world.public / "chunks" / bytes(32).hex()).write_bytes(weights(7))
    world.repository._finish(Staged(manifest, Rollout(2), world.repository._targets([manifest])))
    (world.public / "chunks" / bytes(32).hex()).write_bytes(weights(7))
    refused(world, FolderSource(world.public), "hash")


def test_a_target_whose_hash_is_a_path(world):
    """Signed, and still not a name that is asked for."""
    targets, key = next_targets(world), read_signer(world.folder / "repository" / "keys" / "targets.key")
    targets.signed.targets["manifest-1.cbor"].hashes = {"sha256": "../../keys/root.key"}
    targets.sign(key)
    refused(world, with_targets(world, targets), "name")


def test_no_root_no_trust(world):
    with pytest.raises(ConfigError, match="fedmesh model trust"):
        world.device(trusted_root=None)


def test_the_root_of_somebody_else(world, tmp_path):
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    refused(world, Spying(world.public), "signature", trusted_root=other.root)
    with pytest.raises(ConfigError, match="another root"):
        world.device(trusted_root=world.root)
