"""A repository, installers as in a fleet, and the swarm between them, with a manual clock."""

import random

import pytest
from registry_worlds import World, golden, moved, refuse, weights
from swarm_meshes import SIZE, Mesh
from swarm_worlds import CHUNK, Memory, Net, Origin, blob_of, model

from fedmesh.mesh.swarm import Settings, Swarm
from fedmesh.mesh.swarm.public import TIMESTAMP, names_behind
from fedmesh.registry import Facts, File, Pointer, Rollout
from fedmesh.registry.founding import replace_signers


@pytest.fixture
def mesh(tmp_path):
    made = Mesh(tmp_path, ["anna", "bert", "cleo"])
    yield made
    made.close()


def test_a_model_goes_from_neighbour_to_neighbour(mesh):
    mesh.line("origin", "anna", "bert", "cleo")
    first, second = weights(1, SIZE), weights(2, SIZE)
    mesh.publish(first, golden=golden())
    assert mesh.all_run(first)
    mesh.publish(second)
    assert mesh.all_run(second)
    assert set(mesh.origin.given) == {"anna"}
    assert all(device.errors == [] for device in mesh.devices.values())
    assert {reason for device in mesh.devices.values() for reason in device.swarm.counts} == {"unknown"}
    assert mesh.pointers() == {mesh.world.repository.pointer()}


def test_news_right_behind_news_is_not_waited_with(mesh):
    mesh.net.link("origin", "anna")
    mesh.publish(weights(1, SIZE))
    assert mesh.all_run(weights(1, SIZE), names=["anna"])
    mesh.publish(weights(2, SIZE))
    assert mesh.net.until(lambda: mesh.devices["anna"].version == 2, Settings().looks_s / 2)


def test_who_still_fetches_gives_away_what_it_has(mesh):
    mesh.net.rates = {"origin": 1e6}
    mesh.line("origin", "anna", "bert")
    mesh.publish(weights(1, SIZE))
    assert mesh.net.until(lambda: mesh.devices["bert"].held.mask(mesh.blob()) != 0, 60)
    assert mesh.devices["anna"].version == 0
    assert mesh.all_run(weights(1, SIZE), names=["anna", "bert"])


def test_all_of_a_clique_fetch_what_the_origin_gave_once(mesh):
    mesh.net.rates = dict.fromkeys(["origin", "anna", "bert", "cleo"], 8e6)
    mesh.clique("origin", "anna", "bert", "cleo")
    mesh.publish(weights(1, 12 * SIZE))
    assert mesh.all_run(weights(1, 12 * SIZE))
    assert mesh.origin.given.total() < 1.3 * 12 * SIZE


def test_a_delta_is_fetched_where_it_is_shorter(mesh):
    first = weights(1, SIZE)
    second = moved(first)
    mesh.line("origin", "anna", "bert")
    mesh.publish(first)
    assert mesh.all_run(first, names=["anna", "bert"])
    before = mesh.given()
    mesh.publish(second)
    assert mesh.all_run(second, names=["anna", "bert"])
    assert mesh.given() - before < SIZE


def test_the_file_is_fetched_where_nobody_has_the_delta_any_more(mesh):
    first = weights(1, SIZE)
    second = moved(first)
    mesh.line("origin", "anna", "bert")
    mesh.publish(first)
    assert mesh.all_run(first, names=["anna", "bert"])
    mesh.net.unlink("anna", "bert")
    mesh.publish(second)
    assert mesh.all_run(second, names=["anna"])
    mesh.net.crash("origin")
    anna = mesh.devices["anna"]
    anna.held.collect((), 0)
    assert anna.held._store.size_bytes() == 0
    mesh.net.link("anna", "bert")
    assert mesh.all_run(second, names=["bert"])
    assert mesh.devices["bert"].installer.refused["delta"] >= 1


def test_who_comes_late_is_served_by_its_neighbours_from_their_slots(mesh):
    mesh.line("origin", "anna")
    first = weights(1, SIZE)
    mesh.publish(first, golden=golden())
    assert mesh.all_run(first, names=["anna"])
    assert mesh.devices["anna"].held._store.size_bytes() == 0
    assert [path.name[64:] for path in (mesh.world.folder / "anna-swarm" / "targets").iterdir()] == [".rollout.cbor"]
    mesh.net.crash("origin")
    mesh.stop("anna")
    mesh.start("anna")
    mesh.line("anna", "bert", "cleo")
    assert mesh.all_run(first)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_device_that_is_killed_goes_on_with_what_is_on_its_disk(mesh, after):
    mesh.net.rates = {"anna": 8e6}
    mesh.line("origin", "anna")
    first = weights(1, SIZE)
    mesh.publish(first)
    anna = mesh.devices["anna"]
    assert mesh.net.until(lambda: mesh.blob() and anna.held.mask(mesh.blob()).bit_count() == after, 60)
    before = mesh.origin.given.total()
    mesh.stop("anna")
    mesh.net.run(mesh.net.now + 5)
    mesh.start("anna")
    mesh.line("origin", "anna")
    assert mesh.all_run(first, names=["anna"])
    assert mesh.origin.given.total() - before < (4 - after) * (256 << 10) + 100_000


def test_each_device_takes_the_variant_for_its_tags(tmp_path):
    mesh = Mesh(tmp_path, [])
    mesh.start("anna")
    mesh.start("bert", tags=["float16"])
    mesh.start("cleo", tags=["float16"])
    mesh.line("origin", "anna", "bert", "cleo")
    mesh.net.link("origin", "bert")
    small, large = weights(1, SIZE), weights(2, 2 * SIZE)
    repository = mesh.world.repository
    with repository._shelf.changing():
        files = [File(large, "float16", ("float16",)), File(small)]
        repository._publish(files, Facts(task="digits", round=1), None, Rollout(1))
    mesh.net.carry("origin", mesh.origin.news(mesh.net.now))
    assert mesh.all_run(small, names=["anna"])
    assert mesh.all_run(large, names=["bert", "cleo"])
    mesh.close()


def test_a_model_that_fails_its_probe_is_nobodys_fault(tmp_path):
    mesh = Mesh(tmp_path, [])
    mesh.start("anna", probe=refuse)
    mesh.start("bert")
    mesh.line("origin", "anna", "bert")
    first = weights(1, SIZE)
    mesh.publish(first)
    assert mesh.all_run(first, names=["bert"])
    assert mesh.devices["anna"].errors == ["probe"]
    assert mesh.devices["anna"].swarm.counts.keys() <= {"unknown"}
    mesh.close()


def test_a_chunk_that_rots_is_fetched_again(mesh):
    mesh.net.rates = {"anna": 8e6}
    mesh.line("origin", "anna")
    first = weights(1, SIZE)
    mesh.publish(first)
    anna = mesh.devices["anna"]
    assert mesh.net.until(lambda: mesh.blob() and anna.held.mask(mesh.blob()) & 1, 60)
    path = anna.held._store.path(mesh.blob().chunks[0])
    path.write_bytes(bytes(path.stat().st_size))
    assert mesh.all_run(first, names=["anna"])


def test_a_pointer_is_announced_only_when_its_metadata_is_verified(mesh):
    mesh.line("origin", "anna", "bert")
    mesh.publish(weights(1, SIZE))
    assert mesh.all_run(weights(1, SIZE), names=["anna", "bert"])
    assert Pointer.decode(mesh.devices["bert"].held.pointer) == Pointer.decode(mesh.world.repository.pointer())
    assert mesh.devices["cleo"].held.pointer == b""


def test_new_roots_are_taken_over_from_neighbours(mesh):
    mesh.line("origin", "anna", "bert")
    mesh.publish(weights(1, SIZE))
    assert mesh.all_run(weights(1, SIZE), names=["anna", "bert"])
    folder = mesh.world.folder / "repository"
    for _ in range(2):
        replace_signers(folder, [folder / "keys" / "root.key"], online=True, clock=mesh.world.clock)
    mesh.world.reopened()
    mesh.net.crash("origin")
    mesh.net.nodes["origin"] = mesh.origin = Origin(mesh.world.repository, 3)
    mesh.line("origin", "anna")
    mesh.publish(weights(2, SIZE))
    assert mesh.all_run(weights(2, SIZE), names=["anna", "bert"])
    assert {"metadata/2.root.json", "metadata/3.root.json"} <= mesh.devices["bert"].installer.public.keys()
    mesh.net.crash("origin")
    mesh.line("bert", "cleo")
    assert mesh.all_run(weights(2, SIZE))


def test_near_the_end_a_slow_neighbour_is_not_waited_for():
    net = Net(1, rates={"slow": 1e6})
    blob = blob_of(data := model(1, 10 * CHUNK))
    disk = Memory()
    disk.blobs[blob.sha256] = blob
    net.nodes["anna"] = anna = Swarm(disk, rng=random.Random(1))
    for name in ("slow", "fast"):
        net.nodes[name] = Swarm(Memory(data), rng=random.Random(2))
        net.link("anna", name)
    net.carry("anna", anna.want_blob(blob, 0.0))
    assert net.until(lambda: anna.is_complete, 1.9)  # a chunk of the slow one takes 2.1 s
    assert disk.joined(blob) == data
    net.run(10)
    assert anna.wasted <= CHUNK  # of two requests, that which had not left was taken back


def test_what_metadata_leads_to_is_asked_for_before_it_is_verified_and_no_further(tmp_path):
    world = World(tmp_path)
    world.publish(weights(1))
    (rollout,) = [path.name for path in (world.public / "metadata").glob("*.rollout.json")]
    (targets,) = [path.name for path in (world.public / "metadata").glob("*.targets.json")][-1:]
    timestamp = (world.public / TIMESTAMP).read_bytes()
    (snapshot,) = names_behind(TIMESTAMP, timestamp)
    data = (world.public / snapshot).read_bytes()
    behind = names_behind(snapshot, data)
    assert sorted(behind) == sorted([f"metadata/{rollout}", f"metadata/{targets}"])
    assert all(names_behind(name, (world.public / name).read_bytes()) == [] for name in behind)
    assert names_behind(behind[0], data) == names_behind(snapshot, timestamp) == []  # a liar's chain ends
    assert names_behind(TIMESTAMP, b"{}") == names_behind(TIMESTAMP, data) == []
