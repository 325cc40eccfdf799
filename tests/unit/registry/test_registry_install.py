"""An installer: what it installs, whole or as a delta, for whom it is meant, and what it leaves alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from registry_worlds import DAY, FIRST, NOW, SECOND, Spying, World, code_of, moved, weights, with_first

from fedmesh.errors import ConfigError, DeliveryError, RegistryError
from fedmesh.events import ModelInstalled
from fedmesh.registry import Manifest, Rollout
from fedmesh.registry.describing import Facts, File
from fedmesh.registry.manifest import Schema
from fedmesh.registry.proof import verify_folder
from fedmesh.registry.slots import Slots


@pytest.fixture
def world(tmp_path: Path) -> World:
    return with_first(tmp_path)


def test_before_anything_is_published_there_is_nothing(tmp_path):
    with World(tmp_path).device() as device:
        assert device.update() is None
        assert device.current is None
        assert device.slots.load() is None
        assert not device.refused


def test_the_first_version_is_fetched_verified_probed_and_runs(world):
    seen = []
    with world.device(probe=lambda path, manifest: seen.append((path, manifest.version))) as device:
        installed = device.update()
        assert installed is not None
        assert seen == [(installed.path, 1)]
        assert device.current == installed.path
        assert installed.path.read_bytes() == FIRST
        assert verify_folder(installed.path.parent, world.root) == installed.manifest
        assert device.update() is None
    assert isinstance(world.events[-1], ModelInstalled)
    assert world.events[-1] == ModelInstalled(1, 1, "a", len(FIRST), as_delta=False)


def test_the_next_one_comes_as_a_delta_into_the_other_slot(world):
    source = Spying(world.public)
    with world.device(source=source) as device:
        device.update()
        world.publish(SECOND)
        source.asked.clear()
        installed = device.update()
        assert installed is not None
        assert installed.slot == "b"
        assert world.running(device) == SECOND
        assert world.events[-1].as_delta
        assert world.events[-1].fetched_bytes < len(SECOND) / 4
        assert len(source.chunks()) == 1
        assert not list((world.folder / "device-1" / "chunks").iterdir())  # and is thrown away


def test_a_model_that_has_nothing_in_common_comes_whole(world):
    with world.device() as device:
        device.update()
        version = world.publish(other := weights(7, 5_000))
        assert not version.manifest.variants[0].deltas
        device.update()
        assert world.running(device) == other


def test_a_delta_against_what_is_not_here_comes_whole(world):
    world.publish(SECOND)
    with world.device() as device:
        assert device.update() is not None
        assert world.running(device) == SECOND
        assert not world.events[-1].as_delta


def test_a_delta_that_its_source_has_no_more_gives_way_to_the_file(world):
    def gone(name, data):
        if name in deltas:
            raise RegistryError("it was thrown away", code="missing")
        return data

    with world.device() as device:
        device.update()
        second = moved(FIRST)
        blobs = [item.blob for item in world.publish(second).manifest.variants[0].deltas]
        deltas = {f"chunks/{digest.hex()}" for blob in blobs for digest in blob.chunks}
        assert deltas
        device._source.change = gone
        assert device.update().version == 2
        assert world.running(device) == second
        assert device.refused == {"delta": 1}


def test_what_was_verified_can_be_passed_on_under_the_names_that_a_registry_gives_it(world):
    with world.device() as device:
        assert device.public == {}
        device.update()
        public = device.public
        assert {name.rpartition(".")[0].rpartition(".")[2] for name in public} >= {"root", "snapshot", "targets"}
        assert all((world.public / name).read_bytes() == data for name, data in public.items())


def test_a_fleet_goes_back_by_a_higher_version_with_nothing_to_fetch(world):
    source = Spying(world.public)
    with world.device(source=source) as device:
        device.update()
        world.publish(SECOND)
        device.update()
        version = world.repository.restore(1)
        assert (version.number, version.manifest.restores, version.manifest.parent) == (3, 1, None)
        source.asked.clear()
        assert device.update().version == 3
        assert world.running(device) == FIRST
        assert not source.chunks()


def test_a_canary_reaches_some_and_then_all(world):
    devices = [world.device(f"device-{number}") for number in range(10)]
    for device in devices:
        device.update()
    world.publish(SECOND, rollout=Rollout(1, percent=40))
    first = {number for number, device in enumerate(devices) if device.update() is not None}
    assert 1 <= len(first) <= 8  # of 10 at 40 percent; the draw is by name and version, and the same for ever
    world.repository.roll_out(Rollout(2, percent=0))
    assert all(device.update() is None for device in devices)
    with world.device("new") as new:
        assert new.update().version == 1  # what the others have
    world.repository.roll_out(Rollout(2))
    second = {number for number, device in enumerate(devices) if device.update() is not None}
    assert first.isdisjoint(second)
    assert len(first | second) == 10
    for device in devices:
        device.close()


def test_a_rollout_may_wait_for_its_day_and_ask_for_tags(world):
    with world.device() as device, world.device("big", tags=["npu"]) as big:
        device.update()
        big.update()
        world.publish(SECOND, rollout=Rollout(1, not_before=int(NOW + DAY), tags=("npu",)))
        assert big.update() is None
        world.now += 2 * DAY
        assert big.update().version == 2
        assert device.update() is None


def test_a_variant_is_chosen_by_tags(world):
    files = [File(half := weights(5), "float16", ("npu",)), File(weights(6), "int8", ("avx",))]
    world.publish(SECOND, kind="int4", more=files)
    with world.device("plain") as device:
        device.update()
        assert world.running(device) == SECOND
    version = world.repository.version(2).manifest
    assert version.variant(["npu", "x"]) is version.variants[0]
    first, *others = version.variants
    assert Manifest(3, 0, tuple(others)).variant(["npu"]).kind == "float16"
    assert code_of(lambda: Manifest(3, 0, tuple(others)).variant(["x"])) == "variant"
    assert half != SECOND
    assert first.tags == ()


def test_a_source_that_does_not_answer_changes_nothing_and_is_no_refusal(world):
    class Silent:
        def fetch(self, name: str, *, max_bytes: int) -> bytes:
            raise DeliveryError("nobody there", peer="coordinator")

    with world.device() as device:
        device.update()
    world.publish(SECOND)
    with world.device(source=Silent()) as device:
        with pytest.raises(DeliveryError):
            device.update()
        assert not device.refused
        assert world.running(device) == FIRST


def test_lost_chunks_are_fetched_again_and_rotten_ones_too(world):
    world.publish(weights(8, 160_000))
    lossy = Spying(world.public)

    def lose(name: str, data: bytes) -> bytes:
        if name.startswith("chunks/") and len(lossy.chunks()) == 3:
            raise DeliveryError("gone", peer="coordinator")
        return data

    lossy.change = lose
    with world.device(source=lossy) as device, pytest.raises(DeliveryError):
        device.update()
    chunk = next((world.folder / "device-1" / "chunks").iterdir())
    chunk.write_bytes(b"rotten")
    source = Spying(world.public)
    with world.device(source=source) as device:
        assert device.update() is not None
        assert len(source.chunks()) == 2
        assert device.refused == {"hash": 1}


def test_the_time_of_the_machine_decides_nothing(world):
    """The clock of these tests is years off the machine's: metadata that is fresh there is fresh, and the other way."""
    with world.device() as device:
        assert device.update() is not None
        world.now += 8 * DAY
        assert code_of(device.update) == "expired"
        world.repository.refresh()
        assert device.update() is None
    early = World(world.folder / "early")
    early.now = 1_000_000_000.0
    early.repository._notary.commit()
    early.publish(FIRST)
    with early.device() as device:
        assert code_of(device.update) == ""


def test_what_runs_is_read_as_it_was_installed_or_not_at_all(world):
    with world.device() as device:
        device.update()
        loaded = device.slots.load()
        assert (loaded.data, loaded.manifest.version, loaded.slot) == (FIRST, 1, "a")
        device.current.write_bytes(SECOND)
        with pytest.raises(RegistryError, match="SHA-256"):
            device.slots.load()


def test_lineage_and_schema_are_in_the_manifest(world):
    scenario = bytes(range(32))
    facts = Facts(
        task="digits",
        round=7,
        survivors=5,
        epsilon=2.5,
        scenario=scenario,
        inputs=(Schema("float32", (None, 64)),),
        outputs=(Schema("float32", (None, 10)),),
    )
    world.publish(SECOND, facts=facts)
    with world.device() as device:
        manifest = device.update().manifest
    first = world.repository.version(1)
    assert manifest.parent.hex() == first.sha256
    assert (manifest.round, manifest.survivors, manifest.epsilon, manifest.scenario) == (7, 5, 2.5, scenario)
    assert (manifest.created, manifest.task) == (int(NOW), "digits")
    assert manifest.inputs[0].shape == (None, 64)


def test_an_expensive_library_is_loaded_by_who_needs_it():
    """Who watches the slots, as inference does, has neither TUF nor zstd in memory."""
    script = (
        "import json, sys, fedmesh.registry, fedmesh.registry.slots, fedmesh.registry.controls\n"
        "from fedmesh.registry.roots import read_root\n"
        "print(json.dumps([m for m in ('tuf', 'urllib3', 'zstandard', 'onnxruntime', 'torch') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_slots_that_contradict_themselves_are_refused(world):
    with world.device() as device:
        device.update()
    path = world.folder / "device-1" / "slots" / "slots.cbor"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", b"", whole.replace(b"good", b"gone")):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="put back a copy"):
            world.device()
    path.write_bytes(whole)
    assert Slots(path.parent).load() is not None
