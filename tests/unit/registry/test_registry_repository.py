"""A repository: what it publishes, keeps, signs anew and removes; and what the files in it are."""

import hashlib
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from registry_worlds import DAY, NOW, World, code_of, golden, moved, weights

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.events import ModelPublished
from fedmesh.registry import GoldenSet, Manifest, Pointer, Rollout, delta
from fedmesh.registry.chunks import ChunkStore, count_of, split
from fedmesh.registry.describing import Facts
from fedmesh.registry.fetching import Fetching
from fedmesh.registry.founding import create, replace_signers
from fedmesh.registry.limits import CHUNK_BYTES, LARGEST_CHUNK_BYTES, Limits
from fedmesh.registry.manifest import Blob, Schema, Variant
from fedmesh.registry.repository import Repository
from fedmesh.registry.shelf import Shelf
from fedmesh.registry.signing import create_key, read_public_key, read_signer
from fedmesh.registry.source import FolderSource
from fedmesh.wire import dumps, loads

FIRST = weights(1)
SECOND = moved(FIRST)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_published_version_can_be_read_by_name(world):
    version = world.publish(FIRST, golden=golden())
    assert version.number == 1
    assert version.missing == 0
    blob = version.manifest.variants[0].blob
    assert world.repository.read(f"chunks/{blob.chunks[0].hex()}", CHUNK_BYTES) == FIRST
    sha256, length = version.manifest.golden
    assert GoldenSet.decode(world.repository.read(f"targets/{sha256.hex()}.golden.cbor", length)).agrees(
        golden().logits
    )
    assert code_of(lambda: world.repository.read(f"chunks/{blob.chunks[0].hex()}", 10)) == "oversize"
    assert code_of(lambda: world.repository.read("chunks/" + "0" * 64, 10)) == "missing"


def test_publishing_is_told(world):
    events = []
    repository = world.reopened(events=events.append)
    world.publish(FIRST)
    world.publish(SECOND, facts=Facts(round=4))
    delta_bytes = repository.version(2).manifest.variants[0].deltas[0].blob.length
    assert events == [ModelPublished(1, 1, len(FIRST), None), ModelPublished(2, 4, len(SECOND), delta_bytes)]


def test_old_versions_go_and_what_is_left_can_be_fetched(world):
    world.reopened(keep=3, delta_bases=1)
    for seed in range(6):
        world.publish(weights(seed), golden=golden())
    assert [item.number for item in world.repository.versions()] == [4, 5, 6]
    wanted = {chunk.hex() for item in world.repository.versions() for chunk in item.manifest.variants[0].blob.chunks}
    assert {path.name for path in (world.public / "chunks").iterdir()} == wanted
    assert len(list((world.public / "targets").iterdir())) == 5  # three manifests, a golden set, the rollout
    with world.device() as device:
        assert device.update().version == 6
    for _ in range(40):
        world.repository.roll_out(Rollout(6))
    assert len(list((world.public / "metadata").iterdir())) < 60


def test_numbers_only_grow(world):
    world.publish(FIRST)
    world.publish(SECOND)
    assert world.repository.restore(1).number == 3
    assert world.reopened().publish(world.folder / "model.onnx", Facts()).number == 4
    with pytest.raises(ConfigError, match="newest"):
        world.repository.restore(4)
    with pytest.raises(ConfigError, match="there are 1, 2, 3, 4"):
        world.repository.restore(9)


def test_what_is_silent_for_half_of_its_life_is_signed_anew(world):
    world.publish(FIRST)
    assert not world.repository.refresh()
    before = Pointer.decode(world.repository.pointer())
    world.now += 4 * DAY
    assert world.repository.refresh()
    assert Pointer.decode(world.repository.pointer()).timestamp == before.timestamp + 1
    assert not world.repository.refresh()
    world.now += 60 * DAY
    assert world.repository.refresh()
    world.now += 60 * DAY  # longer than a rollout lives
    world.repository.refresh()
    with world.device() as device:
        assert device.update() is not None


def test_which_versions_may_run_is_signed_anew_where_its_signers_are(world):
    world.publish(FIRST)
    until = world.repository.expiries()
    assert set(until) == {"root", "targets", "rollout", "snapshot", "timestamp"}
    world.now += 200 * DAY
    world.repository.refresh()
    assert world.repository.expiries()["targets"] == until["targets"] + 200 * DAY
    assert world.repository.expiries()["root"] == until["root"]
    (world.folder / "repository" / "keys" / "targets.key").unlink()
    world.reopened()
    world.now += 200 * DAY
    assert world.repository.refresh()  # of the rest
    assert world.repository.expiries()["targets"] == until["targets"] + 200 * DAY
    with world.device() as device:
        assert device.update() is not None


def test_a_staged_version_gives_way_to_the_next_one(tmp_path):
    key = tmp_path / "signer.key"
    create_key(key)
    world = World(tmp_path, signers=[read_public_key(tmp_path / "signer.pub")])
    assert world.publish(FIRST).missing == 1
    assert [(item.number, item.missing) for item in world.repository.versions()] == [(1, 1)]
    with pytest.raises(ConfigError, match="lacks signatures"):
        world.repository.roll_out(Rollout(1))
    first = world.repository._staging.read().targets.signed.version
    world.now += 5 * DAY
    assert world.repository.refresh()  # which removes what nothing is made of
    assert world.repository.read(f"chunks/{hashlib.sha256(FIRST).hexdigest()}", CHUNK_BYTES) == FIRST
    assert world.publish(SECOND).number == 2
    assert world.repository._staging.read().targets.signed.version > first
    world.now += 5 * DAY
    assert world.repository.refresh()
    assert world.reopened().add_signature(key).number == 2
    assert [item.number for item in world.repository.versions()] == [2]
    with world.device() as device:
        assert device.update().version == 2
    with pytest.raises(ConfigError, match="no version waits"):
        world.repository.add_signature(key)


def test_a_repository_is_made_in_a_new_folder_by_signers_that_there_are(world, tmp_path):
    with pytest.raises(ConfigError, match="new folder"):
        create(tmp_path / "repository")
    with pytest.raises(ConfigError, match="2 of 0 signers"):
        create(tmp_path / "other", threshold=2)
    with pytest.raises(ConfigError, match="fedmesh model init"):
        Repository.open(tmp_path / "nothing")


def test_a_root_lives_on_by_its_own_key_only(world, tmp_path):
    folder = tmp_path / "repository"
    world.publish(FIRST)
    assert replace_signers(folder, [folder / "keys" / "root.key"], clock=world.clock) == 2
    with pytest.raises(ConfigError, match="not the keys of root"):
        replace_signers(folder, [folder / "keys" / "online.key"], clock=world.clock)
    with pytest.raises(ConfigError, match="lower threshold"):
        replace_signers(folder, [folder / "keys" / "root.key"], threshold=2, clock=world.clock)
    assert world.reopened()._shelf.roots == [1, 2]
    new = create_key(tmp_path / "new-root.key")
    keys = [folder / "keys" / "root.key", tmp_path / "new-root.key"]
    assert replace_signers(folder, keys, root=[new.public_key], clock=world.clock) == 3
    with world.device() as device:
        assert device.update() is not None
        assert device.update() is None
    with pytest.raises(ConfigError, match="not the keys of root"):
        replace_signers(folder, [folder / "keys" / "root.key"], clock=world.clock)


def test_without_the_coordinators_key_nothing_is_published(world):
    world.publish(FIRST)
    (world.folder / "repository" / "keys" / "online.key").unlink()
    before = (world.public / "metadata" / "timestamp.json").read_bytes()
    with pytest.raises(ConfigError, match="where the coordinator is"):
        world.reopened().publish(world.folder / "model.onnx", Facts())
    assert (world.public / "metadata" / "timestamp.json").read_bytes() == before


def test_a_key_is_never_made_over_another(tmp_path):
    create_key(tmp_path / "a.key")
    with pytest.raises(ConfigError, match="ever made over another"):
        create_key(tmp_path / "a.key")
    assert read_public_key(tmp_path / "a.pub").keyid == read_signer(tmp_path / "a.key").public_key.keyid
    (tmp_path / "b.pub").write_text("not hexadecimal")
    with pytest.raises(ConfigError, match="hexadecimal"):
        read_public_key(tmp_path / "b.pub")
    (tmp_path / "c.key").write_bytes(b"short")
    (tmp_path / "c.key").chmod(0o600)
    with pytest.raises(ConfigError, match="32 bytes"):
        read_signer(tmp_path / "c.key")


def test_five_percent_of_weights_moved_by_one_cost_five_percent(tmp_path):
    base = weights(3, 1 << 20)
    assert len(delta.encode(base, moved(base))) < 0.05 * len(
        base
    )  # the entropy of where is 3.6 %, and nothing of by how much


def test_a_file_that_was_cut_into_longer_chunks_before_is_read(tmp_path):
    data = weights(4, 600_000)
    chunks = [data[start : start + LARGEST_CHUNK_BYTES] for start in range(0, len(data), LARGEST_CHUNK_BYTES)]
    digests = tuple(hashlib.sha256(chunk).digest() for chunk in chunks)
    blob = Blob(hashlib.sha256(data).digest(), len(data), digests)
    assert [blob.length_of(index) for index in range(3)] == [len(chunk) for chunk in chunks]
    (public := tmp_path / "public" / "chunks").mkdir(parents=True)
    for digest, chunk in zip(digests, chunks, strict=True):
        (public / digest.hex()).write_bytes(chunk)
    for keeps in (True, False):
        store = ChunkStore(tmp_path / f"kept-{keeps}")
        fetching = Fetching(FolderSource(public.parent), store, Limits(), Counter(), keeps=keeps)
        assert fetching.model(Variant("int8", (), blob), {}).data == data
        assert [store.has(digest) for digest in digests] == [keeps] * 3


def test_chunks_are_checked_both_ways(tmp_path):
    store = ChunkStore(tmp_path / "chunks")
    data = weights(4, CHUNK_BYTES + 1)
    (first, one), (second, two) = split(data)
    assert (len(one), len(two), count_of(len(data))) == (CHUNK_BYTES, 1, 2)
    assert code_of(lambda: store.put(first, two)) == "hash"
    store.put(first, one)
    store.put(second, two)
    assert store.joined([first, second]) == data
    store.path(first).write_bytes(two)
    assert code_of(lambda: store.get(first)) == "hash"
    assert not store.has(first)
    assert code_of(lambda: store.get(first)) == "missing"
    assert store.keep_only([]) == 1


BLOB = Blob(bytes(32), 1, (bytes(32),))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 1 << 40},
        {"created": -1},
        {"variants": ()},
        {"variants": (Variant("int8", (), BLOB),) * 9},
        {"parent": b"short"},
        {"scenario": b"short"},
        {"golden": (b"short", 1)},
        {"golden": (bytes(32), -1)},
        {"round": -1},
        {"epsilon": float("nan")},
        {"epsilon": float("inf")},
        {"epsilon": -1.0},
        {"task": "x" * 201},
    ],
)
def test_a_manifest_that_cannot_be(change):
    with pytest.raises(RegistryError):
        replace(Manifest(1, int(NOW), (Variant("int8", (), BLOB),)), **change)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "fedmesh-manifest/2"},
        {"version": "1"},
        {"version": True},
        {"round": 1.5},
        {"more": 1},
        {"variants": [1]},
        {"inputs": [["float32", "x"]]},
        {"inputs": [["float32; rm", [1]]]},
        {"golden": [bytes(32)]},
    ],
)
def test_a_manifest_in_another_form(change):
    content = loads(Manifest(1, int(NOW), (Variant("int8", (), BLOB),)).encode(), max_bytes=1 << 20)
    assert code_of(lambda: Manifest.decode(dumps({**content, **change}))) == "malformed"


def test_blobs_tags_and_schemas_that_cannot_be():
    for made in (
        lambda: Blob(bytes(32), 0, ()),
        lambda: Blob(bytes(32), 1, ()),
        lambda: Blob(bytes(31), 1, (bytes(32),)),
        lambda: Blob(bytes(32), LARGEST_CHUNK_BYTES + 1, (bytes(32),)),
        lambda: Variant("int 8", (), BLOB),
        lambda: Variant("int8", ("A",), BLOB),
        lambda: Schema("float32", (-1,)),
        lambda: Rollout(0),
        lambda: Rollout(1, 101),
        lambda: Rollout(1, float("nan")),
    ):
        assert code_of(made) == "malformed"


def test_a_golden_set_knows_its_logits_to_the_last_bit():
    made = golden()
    assert GoldenSet.decode(made.encode()).agrees(made.logits)
    assert not made.agrees(np.nextafter(made.logits, 2, dtype=np.float32))
    assert not made.agrees(made.logits[:1])
    assert not made.agrees(made.logits * np.nan)
    assert replace(made, tolerance=0.1).agrees(made.logits + np.float32(0.05))
    for inputs, logits in (
        (made.inputs.astype(np.float64), made.logits),
        (made.inputs, made.logits[:1]),
        (made.inputs[:0], made.logits[:0]),
        (made.inputs, made.logits * np.inf),
    ):
        assert code_of(lambda inputs=inputs, logits=logits: GoldenSet(inputs, logits)) == "malformed"
    assert code_of(lambda: GoldenSet.decode(made.encode()[:-1])) == "malformed"
    assert code_of(lambda: replace(made, tolerance=float("nan"))) == "malformed"


def test_a_pointer_is_small(world):
    world.publish(FIRST)
    announced = world.repository.pointer()
    assert len(announced) <= 256
    assert Pointer.decode(announced).version == 1
    snapshot = (world.public / "metadata" / "2.snapshot.json").read_bytes()
    assert Pointer.of(2, snapshot, 1) == Pointer.decode(announced)


def test_a_folder_is_a_source(world):
    version = world.publish(FIRST)
    name = f"chunks/{version.manifest.variants[0].blob.chunks[0].hex()}"
    assert FolderSource(world.public).fetch(name, max_bytes=len(FIRST)) == FIRST
    assert code_of(lambda: FolderSource(world.public).fetch(name, max_bytes=1)) == "oversize"


def test_a_pointer_is_of_one_moment(world, monkeypatch):
    """What is read of the repository while it changes waits for the change, or the change for it."""
    world.publish(FIRST)
    read, changes = Shelf.timestamp, []

    def interrupted(shelf):
        found = read(shelf)
        if not changes:  # in the midst of the pointer's reads
            changes.append(threading.Thread(target=world.publish, args=(SECOND,)))
            changes[-1].start()
            changes[-1].join(0.5)
        return found

    monkeypatch.setattr(Shelf, "timestamp", interrupted)
    pointer = Pointer.decode(world.repository.pointer())
    monkeypatch.undo()
    changes[0].join()
    assert pointer.version == 1
    assert Pointer.decode(world.repository.pointer()).version == 2
