"""What a hostile broker, mirror or signer may try: refused, counted by reason, and the model that ran runs on."""

import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from registry_worlds import DAY, NOW, Spying, World, code_of, golden, moved, weights
from tuf.api.metadata import Metadata

from fedmesh.errors import REGISTRY_CODES, ConfigError, RegistryError
from fedmesh.events import ModelRefused
from fedmesh.registry import FolderSource, Rollout
from fedmesh.registry.describing import Facts, stored
from fedmesh.registry.founding import replace_signers
from fedmesh.registry.proof import Proof, verify_folder
from fedmesh.registry.repository import Repository
from fedmesh.registry.signing import create_key, read_public_key, read_signer
from fedmesh.registry.source import check_name
from fedmesh.registry.staging import Staged

FIRST = weights(1)
SECOND = moved(FIRST)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.publish(FIRST, golden=golden())
    return made


def snapshot_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Frozen:
    """A mirror that gives what it once saw, or what a test put in."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        if name not in self.files:
            raise RegistryError(f"no {name}", code="missing")
        return self.files[name]


def refused(world: World, source, code: str, *, name: str = "device-1", **options) -> None:
    """The device refuses what comes from `source` for this reason, counts it, tells of it, and runs what it ran."""
    assert code in REGISTRY_CODES
    with world.device(name, source=source, **options) as device:
        before = device.slots.state.running
        assert code_of(device.update) == code
        assert device.refused[code] >= 1
        assert isinstance(world.events[-1], ModelRefused)
        assert world.events[-1].code == code
        assert device.slots.state.running == before
        if before.version:
            assert device.slots.load() is not None


def installed(world: World, name: str = "device-1") -> None:
    with world.device(name) as device:
        assert device.update() is not None


def test_rollback_of_the_whole_repository(world):
    old = snapshot_of(world.public)
    world.publish(SECOND)
    installed(world)
    refused(world, Frozen(old), "rollback")


@pytest.mark.parametrize("restart", [False, True])
def test_freeze_shows_when_the_timestamp_expires(world, restart):
    installed(world)
    mirror = Frozen(snapshot_of(world.public))
    if restart:
        world.repository.refresh()
    world.now += 6 * DAY
    with world.device(source=mirror) as device:
        assert device.update() is None
    world.now += 2 * DAY
    refused(world, mirror, "expired")


def test_a_clock_that_is_set_back_revives_nothing(world):
    """A manifest proves that its day has come."""
    mirror = Frozen(snapshot_of(world.public))
    world.now += 400 * DAY
    world.repository.refresh()
    world.publish(SECOND)
    installed(world)
    (world.folder / "device-1" / "metadata.cbor").unlink()  # so that it is the time alone that speaks against it
    world.now = NOW
    refused(world, mirror, "expired")


@pytest.mark.parametrize(
    "name", ["metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/1.targets.json", "targets/", "chunks/"]
)
def test_endless_data_is_cut_off(world, name):
    source = Spying(world.public)
    source.change = lambda asked, data: bytes(1 << 25) if asked.startswith(name) else data
    refused(world, source, "oversize")


def test_an_endless_root_is_cut_off(world):
    class Endless(Spying):
        def fetch(self, name, *, max_bytes):
            return bytes(1 << 21) if name == "metadata/2.root.json" else super().fetch(name, max_bytes=max_bytes)

    refused(world, Endless(world.public), "oversize")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("metadata/timestamp.json", "malformed"),
        ("metadata/2.snapshot.json", "hash"),
        ("metadata/1.targets.json", "hash"),
        ("metadata/1.rollout.json", "hash"),
        ("targets/", "hash"),
        ("chunks/", "hash"),
    ],
)
def test_flipped_bytes(world, name, code):
    source = Spying(world.public)

    def flip(asked: str, data: bytes) -> bytes:
        return bytes([data[0] ^ 1, *data[1:]]) if asked.startswith(name) else data

    source.change = flip
    refused(world, source, code)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"[" * 16_000,
        b'{"a":' * 3_000,
        b"9" * 16_000,
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"signed":{},"signatures":[]}',
    ],
    ids=range(8),
)
@pytest.mark.parametrize("name", ["metadata/timestamp.json", "metadata/2.root.json"])
def test_junk_is_no_metadata(world, name, junk):
    class Junk(Spying):
        def fetch(self, asked, *, max_bytes):
            return junk if asked == name else super().fetch(asked, max_bytes=max_bytes)

    refused(world, Junk(world.public), "malformed")


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


def test_a_flipped_byte_inside_what_is_signed(world):
    source = Spying(world.public)
    source.change = lambda asked, data: data.replace(b'"version":2', b'"version":3') if "timestamp" in asked else data
    refused(world, source, "signature")


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


def next_targets(world: World) -> Metadata:
    targets = Metadata.from_bytes(max(world.public.glob("metadata/*.targets.json")).read_bytes())
    targets.signed.version += 1
    targets.signatures.clear()
    return targets


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


def test_mix_and_match_of_what_was_all_signed_once(world):
    old = snapshot_of(world.public)
    world.publish(SECOND)
    new = snapshot_of(world.public)
    mixed = dict(new)
    mixed["metadata/2.targets.json"] = old["metadata/1.targets.json"]
    refused(world, Frozen(mixed), "hash")
    mixed = dict(new)
    mixed["metadata/3.snapshot.json"] = old["metadata/2.snapshot.json"]
    refused(world, Frozen(mixed), "hash", name="device-2")


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


@pytest.mark.parametrize(("change", "code"), [(lambda d: d[:-1] + b"x", "hash"), (lambda d: d + b"x", "oversize")])
def test_another_golden_set(world, change, code):
    source = Spying(world.public)
    source.change = lambda name, data: change(data) if "golden" in name else data
    refused(world, source, code)


def test_a_chunk_of_a_delta_that_is_flipped_on_the_way(world):
    installed(world)
    version = world.publish(SECOND)
    chunk = version.manifest.variants[0].deltas[0].blob.chunks[0]
    source = Spying(world.public)
    source.change = lambda name, data: bytes(len(data)) if name == f"chunks/{chunk.hex()}" else data
    refused(world, source, "hash")
    installed(world)


def test_path_traversal_leads_nowhere(world, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    source = FolderSource(world.public)
    for name in (
        "../keys/root.key",
        "metadata/../../keys/root.key",
        "/etc/passwd",
        "metadata/..",
        "chunks/" + "0" * 63 + "/",
        "chunks/../chunks/" + "0" * 64,
        "metadata/timestamp.json\n",
        "metadata/timestamp.json\0",
        "metadata/01.root.json",
        "metadata/\uff11.root.json",
        "targets/" + "0" * 64 + ".golden.cbor/../x",
        "",
    ):
        assert code_of(lambda name=name: source.fetch(name, max_bytes=1 << 20)) == "name", name
        assert code_of(lambda name=name: world.repository.read(name, 1 << 20)) == "name", name
        assert code_of(lambda name=name: check_name(name)) == "name", name


def test_a_target_whose_hash_is_a_path(world):
    """Signed, and still not a name that is asked for."""
    targets, key = next_targets(world), read_signer(world.folder / "repository" / "keys" / "targets.key")
    targets.signed.targets["manifest-1.cbor"].hashes = {"sha256": "../../keys/root.key"}
    targets.sign(key)
    refused(world, with_targets(world, targets), "name")


def test_a_model_longer_than_a_device_takes(world):
    from fedmesh.registry import Limits

    refused(world, Spying(world.public), "oversize", limits=Limits(model_bytes=100))


def test_no_root_no_trust(world):
    with pytest.raises(ConfigError, match="fedmesh model trust"):
        world.device(trusted_root=None)


def test_the_root_of_somebody_else(world, tmp_path):
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    refused(world, Spying(world.public), "signature", trusted_root=other.root)
    with pytest.raises(ConfigError, match="another root"):
        world.device(trusted_root=world.root)


def test_a_forged_pointer_makes_a_device_look_and_no_more(world):
    from fedmesh.registry import Pointer

    installed(world)
    with world.device() as device:
        assert not device.is_news(world.repository.pointer())
        assert device.is_news(Pointer(10**9, bytes(32), 99).encode())
        assert device.update() is None
        for junk in (b"", b"\xff" * 40, bytes(10_000), Pointer(1, b"short", 1).encode()):
            assert not device.is_news(junk)
        assert device.refused["malformed"] == 4


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
