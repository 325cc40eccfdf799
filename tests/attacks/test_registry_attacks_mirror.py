"""What a broker, a mirror or a caller without a key may try: refused by reason, and the model that ran runs on."""

from pathlib import Path

import pytest
from registry_attackers import Frozen, installed, refused, snapshot_of
from registry_worlds import DAY, NOW, SECOND, Spying, World, code_of, with_first

from fedmesh.registry import FolderSource
from fedmesh.registry.source import check_name


@pytest.fixture
def world(tmp_path: Path) -> World:
    return with_first(tmp_path)


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


def test_a_flipped_byte_inside_what_is_signed(world):
    source = Spying(world.public)
    source.change = lambda asked, data: data.replace(b'"version":2', b'"version":3') if "timestamp" in asked else data
    refused(world, source, "signature")


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


def test_a_model_longer_than_a_device_takes(world):
    from fedmesh.registry import Limits

    refused(world, Spying(world.public), "oversize", limits=Limits(model_bytes=100))


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
