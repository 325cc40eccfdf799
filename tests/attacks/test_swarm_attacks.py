"""Neighbours that lie about chunks, ask too much, or say nothing: refused or bounded, and counted by reason."""

import hashlib
import random

import pytest
from registry_worlds import World, weights
from swarm_liars import Claiming, Liar, bragging, honest, mute, poison, short
from swarm_meshes import SIZE, Mesh
from swarm_worlds import CHUNK, Memory, Net, Origin, blob_of, model

from fedmesh.mesh.swarm import Settings, Swarm
from fedmesh.mesh.swarm.messages import MAX_MESSAGE_BYTES, Announce, Bits, Cancel, Piece, Request, decode, encode
from fedmesh.registry import Pointer

DATA = model(5, 5 * CHUNK)
BLOB = blob_of(DATA)


def fetching(net, settings=None):
    """A device called anna that wants DATA."""
    disk = Memory()
    disk.blobs[BLOB.sha256] = BLOB
    net.nodes["anna"] = Swarm(disk, rng=random.Random(1), settings=settings)
    net.carry("anna", net.nodes["anna"].want_blob(BLOB, net.now))
    return net.nodes["anna"], disk


@pytest.mark.parametrize("twist", [poison, short], ids=["poisoned", "cut"])
def test_who_sends_a_bad_chunk_is_banned_and_the_file_comes_from_others(twist):
    net = Net(1)
    anna, disk = fetching(net)
    net.nodes["mallory"] = Liar(Memory(DATA), random.Random(2), twist)
    net.link("anna", "mallory")
    net.run(10)
    assert anna.counts["chunk"] == 1
    assert disk.chunks == {}
    assert anna.neighbours.is_banned("mallory", net.now)
    net.nodes["bert"] = Swarm(Memory(DATA), rng=random.Random(3))
    net.link("anna", "bert")
    assert net.until(lambda: anna.is_complete, 10)
    assert disk.joined(BLOB) == DATA


def test_a_ban_outlives_the_link_and_ends():
    net = Net(1)
    anna, _ = fetching(net, Settings(ban_s=100.0))
    net.nodes["mallory"] = Liar(Memory(DATA), random.Random(2), poison)
    net.link("anna", "mallory")
    net.run(10)
    for _ in range(5):
        net.unlink("anna", "mallory")
        net.link("anna", "mallory")
        net.run(net.now + 1)
    assert anna.counts["chunk"] == 1
    assert anna.counts["banned"] > 0
    net.run(150)
    assert anna.counts["chunk"] == 2


def test_a_neighbour_that_never_answers_delays_the_file_and_no_more():
    net = Net(1)
    anna, _ = fetching(net)
    for number in range(6):
        net.nodes[f"mute{number}"] = Liar(Memory(DATA), random.Random(number), mute)
        net.link("anna", f"mute{number}")
    net.nodes["bert"] = Swarm(Memory(DATA), rng=random.Random(3))
    net.link("anna", "bert")
    assert net.until(lambda: anna.is_complete, 65)
    net.run(300)
    assert all(not node.neighbours.get("anna").wants for name, node in net.nodes.items() if name == "bert")


def test_a_neighbour_that_never_answers_is_asked_less_and_less():
    net = Net(1)
    anna, _ = fetching(net, Settings(request_s=5.0, snub_s=100.0))
    net.nodes["mute"] = Liar(Memory(DATA), random.Random(2), mute)
    net.link("anna", "mute")
    net.run(100)
    assert anna.counts == {"timeout": 3, "snubbed": 1}


@pytest.mark.parametrize("claims", [True, False], ids=["has nothing", "has other bits"])
def test_bits_that_lie_cost_a_few_requests(claims):
    net = Net(1)
    anna, _ = fetching(net)
    liar = Liar(Claiming(DATA), random.Random(2), honest) if claims else Liar(Memory(), random.Random(2), bragging)
    net.nodes["mallory"] = liar
    net.link("anna", "mallory")
    net.run(60)
    assert not anna.is_complete
    assert anna.counts["missed"] <= 2 * 8
    net.nodes["bert"] = Swarm(Memory(DATA), rng=random.Random(3))
    net.link("anna", "bert")
    assert net.until(lambda: anna.is_complete, 10)


def test_bits_of_another_length_are_refused():
    net = Net(1)
    anna, _ = fetching(net)
    anna.connected("mallory", 0.0)
    anna.received("mallory", encode(Bits(BLOB.sha256, 4, 15, wants=False)), 0.0)
    for number in range(100):
        name = hashlib.sha256(bytes([number])).digest()
        anna.received("mallory", encode(Bits(name, 8, 255, wants=True)), 0.0)
    assert anna.counts["bits"] == 1
    assert len(anna.neighbours.get("mallory").masks) == 4
    assert len(anna.neighbours.get("mallory").wants) == 4


def test_what_nobody_asked_for_bans_and_what_comes_late_does_not():
    net = Net(1)
    anna, disk = fetching(net)
    anna.connected("bert", 0.0)
    asked = anna.received("bert", encode(Bits(BLOB.sha256, 5, 31, wants=False)), 0.0)
    number = next(m.number for m in (decode(item.data) for item in asked) if isinstance(m, Request))
    anna.tick(31.0)
    anna.received("bert", encode(Piece(number, CHUNK, bytes(CHUNK))), 31.0)
    assert anna.counts["late"] == 1
    assert anna.wasted == CHUNK
    assert not anna.neighbours.is_banned("bert", 31.0)
    anna.received("bert", encode(Piece(number + 99, CHUNK, bytes(CHUNK))), 31.0)
    assert anna.counts["unasked"] == 1
    assert anna.neighbours.is_banned("bert", 31.0)
    assert disk.chunks == {}


NAMES = {
    "../keys/online.key": "name",
    "keys/online.key": "name",
    "metadata/../../keys/online.key": "name",
    "chunks/" + "0" * 63: "name",
    "chunks/" + "0" * 64: "unknown",
    "targets/" + "0" * 64 + ".golden.cbor": "unknown",
    "metadata/99.root.json": "unknown",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_public_is_not_given(tmp_path, name):
    mesh = Mesh(tmp_path, ["anna"])
    mesh.line("origin", "anna")
    mesh.publish(weights(1, SIZE))
    assert mesh.all_run(weights(1, SIZE))
    for node in (mesh.origin, mesh.devices["anna"].swarm):
        node.connected("mallory", mesh.net.now)
        before = node.counts[NAMES[name]]
        out = node.received("mallory", encode(Request(1, name, 0, 1000)), mesh.net.now)
        answers = [decode(item.data) for item in out if item.to == "mallory"]
        assert [(answer.number, answer.code) for answer in answers] == [(1, NAMES[name])]
        assert node.counts[NAMES[name]] == before + 1
    mesh.close()


def test_what_waits_for_signatures_is_not_given(tmp_path):
    world = World(tmp_path)
    staged = model(9, 1000)
    digest = hashlib.sha256(staged).digest()
    world.repository._shelf.chunks.put(digest, staged)
    name = f"chunks/{digest.hex()}"
    assert world.repository.read(name, CHUNK) == staged
    origin = Origin(world.repository, 1)
    origin.connected("mallory", 0.0)
    out = origin.received("mallory", encode(Request(1, name, 0, CHUNK)), 0.0)
    assert [decode(item.data).code for item in out] == ["unknown"]


def test_a_piece_beyond_the_end_is_refused():
    node = Swarm(Memory(DATA), rng=random.Random(1))
    node.connected("mallory", 0.0)
    out = node.received("mallory", encode(Request(1, f"chunks/{BLOB.chunks[0].hex()}", CHUNK, 1)), 0.0)
    assert decode(out[0].data).code == "range"


def test_a_flood_of_requests_is_cut_off_and_others_are_served():
    node = Swarm(Memory(DATA), rng=random.Random(1), settings=Settings(uploads=1))
    for peer in ("mallory", "bert"):
        node.connected(peer, 0.0)
    name = f"chunks/{BLOB.chunks[0].hex()}"
    pieces = 0
    for number in range(5000):
        out = node.received("mallory", encode(Request(number, name, 0, CHUNK)), 0.0)
        pieces += sum(item.is_piece for item in out)
    assert pieces == 1
    assert node.counts["busy"] == 400 - 1 - 8
    assert node.counts["flood"] == 4600
    assert node.received("bert", encode(Request(1, name, 0, CHUNK)), 0.0) == []
    assert [item.to for item in node.sent("mallory", 0.5)] == ["bert"]


def test_who_takes_nothing_of_what_it_asks_for_does_not_hold_up_the_rest():
    node = Swarm(Memory(DATA), rng=random.Random(1), settings=Settings(uploads=1))
    for peer in ("mallory", "bert"):
        node.connected(peer, 0.0)
    name = f"chunks/{BLOB.chunks[0].hex()}"
    node.received("mallory", encode(Request(1, name, 0, CHUNK)), 0.0)
    node.received("bert", encode(Request(1, name, 0, CHUNK)), 0.0)
    assert node.due <= 1.0
    assert [item.to for item in node.tick(node.due) if item.is_piece] == ["bert"]
    node.tick(61.0)
    assert node.counts["stuck"] == 2


def test_a_cancelled_request_is_not_served():
    node = Swarm(Memory(DATA), rng=random.Random(1))
    node.connected("anna", 0.0)
    for number, digest in enumerate(BLOB.chunks):
        node.received("anna", encode(Request(number, f"chunks/{digest.hex()}", 0, CHUNK)), 0.0)
    for number in range(1, 5):
        node.received("anna", encode(Cancel(number)), 0.0)
    assert node.sent("anna", 0.3) == []


def test_strangers_and_what_is_malformed_are_counted():
    node = Swarm(Memory(DATA), rng=random.Random(1))
    node.received("stranger", encode(Announce(b"")), 0.0)
    node.connected("mallory", 0.0)
    node.received("mallory", bytes(MAX_MESSAGE_BYTES + 1), 0.0)
    node.received("mallory", b"", 0.0)
    node.received("mallory", encode(Announce(b"no pointer")), 0.0)
    chance = random.Random(4)
    good = [encode(Announce(Pointer(1, bytes(32), 1).encode())), encode(Request(1, "chunks/" + "0" * 64, 0, 9))]
    good.append(encode(Bits(BLOB.sha256, 5, 3, wants=True)))
    for step in range(3000):
        data = bytearray(chance.choice(good))
        data[chance.randrange(len(data))] = chance.randrange(256)
        node.received("mallory", bytes(data[: chance.randint(1, len(data))]), step / 10)
    assert node.counts["stranger"] == 1
    assert node.counts["malformed"] > 1000


def test_links_are_bounded():
    node = Swarm(Memory(DATA), rng=random.Random(1), settings=Settings(neighbours=3))
    for number in range(5):
        node.connected(f"m{number}", 0.0)
    assert len(list(node.neighbours)) == 3
    assert node.counts["full"] == 2
