"""Metadata that a neighbour forges, replays or keeps back, and a disk that fails: only who is at fault is banned."""

import random
from dataclasses import replace

import pytest
from registry_worlds import code_of, moved, weights
from swarm_liars import Forger, Liar, flipped, mute
from swarm_meshes import SIZE, Mesh
from swarm_worlds import Origin

from fedmesh.errors import ConfigError, FileError
from fedmesh.mesh.swarm import Held, SwarmSource
from fedmesh.mesh.swarm.messages import Announce, encode
from fedmesh.registry import Pointer


@pytest.fixture
def mesh(tmp_path):
    """Mallory has a copy of all that is public; bert has the truth, and comes to anna later."""
    made = Mesh(tmp_path, ["anna", "bert"])
    made.line("origin", "bert")
    made.publish(weights(1, SIZE))
    assert made.all_run(weights(1, SIZE), names=["bert"])
    made.mallory = made.net.nodes["mallory"] = Origin(made.world.repository, 2)
    yield made
    made.close()


FORGED = {
    "flipped timestamp": lambda name, data: flipped(data) if "timestamp" in name else data,
    "no timestamp": lambda name, data: b"{}" if "timestamp" in name else data,
    "flipped targets": lambda name, data: (
        data.replace(b"manifest-1", b"manifest-2") if ".targets.json" in name else data
    ),
    "another snapshot": lambda name, data: data + b" " if "snapshot" in name else data,
    "endless timestamp": lambda name, data: data + bytes(20_000) if "timestamp" in name else data,
    "endless snapshot": lambda name, data: data + bytes(2 << 20) if "snapshot" in name else data,
}


@pytest.mark.parametrize("kind", FORGED)
def test_who_forges_metadata_is_banned_and_the_next_is_looked_at(mesh, kind):
    Forger(mesh.mallory, FORGED[kind])
    mesh.net.link("anna", "mallory")
    mesh.net.run(mesh.net.now + 30)
    anna = mesh.devices["anna"]
    assert anna.swarm.counts["metadata"] + anna.swarm.counts["oversize"] == 1
    assert anna.swarm.neighbours.is_banned("mallory", mesh.net.now)
    assert (anna.version, anna.held.pointer) == (0, b"")
    mesh.net.link("anna", "bert")
    assert mesh.all_run(weights(1, SIZE), names=["anna"])


@pytest.mark.parametrize("longer", [True, False])
def test_a_manifest_that_is_another_bans_who_gave_it(mesh, longer):
    change = (lambda data: data + bytes(1000)) if longer else flipped
    Forger(mesh.mallory, lambda name, data: change(data) if ".manifest-" in name else data)
    mesh.net.link("anna", "mallory")
    mesh.net.run(mesh.net.now + 30)
    anna = mesh.devices["anna"]
    assert anna.swarm.counts["oversize" if longer else "file"] == 1
    assert anna.version == 0
    mesh.net.link("anna", "bert")
    assert mesh.all_run(weights(1, SIZE), names=["anna"])


def test_a_pointer_to_nothing_new_bans_who_announced_it(mesh):
    Forger(mesh.mallory, pointer=Pointer(999, bytes(32), 999).encode())
    mesh.net.link("anna", "mallory")
    assert mesh.all_run(weights(1, SIZE), names=["anna"])  # what it gave was signed, and is taken
    assert mesh.devices["anna"].swarm.counts["pointer"] == 1
    assert Pointer.decode(mesh.devices["anna"].held.pointer).timestamp < 999  # and the lie goes no further
    mesh.publish(weights(2, SIZE))
    mesh.net.link("anna", "bert")
    assert mesh.all_run(weights(2, SIZE))


def test_an_old_repository_under_a_new_pointer_is_refused(mesh, tmp_path):
    old = {name: mesh.mallory.published.read(name) for name in ("metadata/timestamp.json",)}
    mesh.net.link("anna", "bert")
    assert mesh.all_run(weights(1, SIZE))
    mesh.publish(moved(weights(1, SIZE)))
    assert mesh.all_run(moved(weights(1, SIZE)))
    Forger(
        mesh.mallory,
        old.get,
        pointer=replace(Pointer.decode(mesh.origin.published.pointer), timestamp=99).encode(),
    )
    mesh.net.link("anna", "mallory")
    mesh.net.run(mesh.net.now + 30)
    anna = mesh.devices["anna"]
    assert anna.installer.refused["rollback"] == 1
    assert anna.swarm.counts["metadata"] == 1
    assert anna.version == 2


def test_a_replayed_pointer_is_not_even_looked_at(mesh):
    mesh.net.link("anna", "bert")
    assert mesh.all_run(weights(1, SIZE))
    anna = mesh.devices["anna"]
    mesh.net.link("anna", "mallory")
    before = mesh.mallory.given.total()
    for timestamp in range(1, anna.installer.seen + 1):
        data = encode(Announce(Pointer(timestamp, bytes(32), 7).encode()))
        mesh.net.carry("anna", anna.received("mallory", data, mesh.net.now))
    mesh.net.run(mesh.net.now + 60)
    assert mesh.mallory.given.total() == before
    assert anna.swarm.counts["pointer"] == 0


def test_expired_metadata_is_refused_and_nobody_is_banned_for_it(mesh):
    mesh.world.now += 400 * 86_400.0
    mesh.net.link("anna", "bert")
    mesh.net.run(mesh.net.now + 100)
    anna = mesh.devices["anna"]
    assert anna.version == 0
    assert set(anna.errors) == {"expired"}
    assert len(anna.errors) < 8  # less and less often
    assert not anna.swarm.neighbours.is_banned("bert", mesh.net.now)


def test_a_guide_that_falls_silent_is_replaced(mesh):
    Forger(mesh.mallory, lambda name, data: None if "snapshot" in name else data)
    mesh.net.link("anna", "mallory")
    mesh.net.link("anna", "bert")
    assert mesh.all_run(weights(1, SIZE), names=["anna"])


@pytest.mark.parametrize("timestamp", [2, 999])
def test_a_guide_that_never_answers_is_waited_for_once(mesh, timestamp):
    truth = mesh.mallory
    truth.published.pointer = Pointer(timestamp, bytes(32), 1).encode()
    mesh.net.crash("mallory")
    mesh.net.nodes["mallory"] = Liar(truth.published, random.Random(1), mute)
    mesh.net.link("anna", "mallory")
    mesh.net.run(mesh.net.now + 1)
    mesh.net.link("anna", "bert")
    assert mesh.all_run(weights(1, SIZE), names=["anna"], within=40)


def test_a_full_disk_is_no_neighbours_fault(mesh):
    anna = mesh.devices["anna"]
    put, full = anna.held.put, [True]

    def no_room(digest, data):
        if full[0]:
            raise ConfigError("no room")
        put(digest, data)

    anna.held.put = no_room
    mesh.net.link("anna", "bert")
    mesh.net.run(mesh.net.now + 60)
    assert 2 <= anna.swarm.counts["storage"] < 8
    assert not anna.swarm.neighbours.is_banned("bert", mesh.net.now)
    full[0] = False
    assert mesh.all_run(weights(1, SIZE), names=["anna"])


@pytest.mark.parametrize("kind", ["targets/", "chunks/"])
def test_a_disk_that_gives_nothing_back_is_tried_less_and_less_often(mesh, kind):
    anna = mesh.devices["anna"]
    read = anna.held.read
    anna.held.read = lambda name: None if name.startswith(kind) else read(name)
    mesh.net.link("anna", "bert")
    before = mesh.devices["bert"].swarm.given.total()
    mesh.net.run(mesh.net.now + 60)
    assert anna.version == 0
    assert mesh.devices["bert"].swarm.given.total() - before < 3 * SIZE


def test_behind_a_root_that_is_on_its_way_nothing_is_verified_by_the_old_one(tmp_path):
    source = SwarmSource(Held(tmp_path / "swarm"))
    source.files["metadata/timestamp.json"] = b"by a key that the next root revokes"
    source.begin()
    for name in ("metadata/2.root.json", "metadata/timestamp.json"):
        with pytest.raises(FileError) as caught:
            source.fetch(name, max_bytes=100)
        assert caught.value.code == "busy"
    assert source.wanted == ("metadata/2.root.json", 100)
    source.gone.add("metadata/2.root.json")
    source.begin()
    assert code_of(lambda: source.fetch("metadata/2.root.json", max_bytes=100)) == "missing"
    assert source.fetch("metadata/timestamp.json", max_bytes=100)
    assert code_of(lambda: source.fetch("metadata/timestamp.json", max_bytes=3)) == "oversize"
    assert code_of(lambda: source.fetch("../root.key", max_bytes=3)) == "name"
