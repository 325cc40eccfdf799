"""`kill -9` before every single change of a file: a device has the old model or the new one, and a fleet, too."""

import os
import signal
from pathlib import Path

import pytest
from killed_installation import killed_at
from registry_worlds import Spying, World, golden, moved, weights

from fedmesh.registry import controls
from fedmesh.registry.describing import Facts
from fedmesh.registry.proof import verify_folder
from fedmesh.registry.repository import Repository

FIRST = weights(1, 100_000)  # two chunks
SECOND = weights(2, 100_000)  # no delta helps
THIRD = moved(SECOND)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.publish(FIRST, golden=golden())
    return made


@pytest.mark.slow
def test_a_device_killed_before_every_change_of_a_file(world):
    """The first model, one that replaces it, and a third, into the slot that the first was in."""
    kills = 0
    for data in (FIRST, SECOND, THIRD):
        if data != FIRST:
            world.publish(data, golden=golden())
        with world.device() as device:
            before = device.slots.load()
        old = None if before is None else before.data

        def update() -> None:
            with world.device(attempts=10_000) as device:
                device.update()

        number = 1
        while killed_at(number, update):
            slots = world.device(attempts=10_000)
            found = slots.slots.load()
            assert (None if found is None else found.data) in {old, data}, number
            if found is not None:
                assert verify_folder(found.folder, world.root).version == found.manifest.version
            slots.close()
            number += 1
        kills += number - 1
        with world.device() as device:
            assert world.running(device) == data
            assert device.update() is None
            assert not device.slots.state.failed
    assert kills > 60


def test_a_download_goes_on_where_it_was_cut_off(world):
    world.publish(SECOND)
    number = 1
    while killed_at(number, lambda: world.device().update()):
        if len(list((world.folder / "device-1" / "chunks").glob("?" * 64))) == 1:
            break
        number += 1
    source = Spying(world.public)
    with world.device(source=source) as device:
        assert device.update() is not None
    assert len(source.chunks()) == 1


def test_a_probe_that_kills_its_process_is_not_tried_for_ever(world):
    with world.device() as device:
        device.update()
        slots = device.slots
    world.publish(SECOND)

    def deadly(path: Path, manifest: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def attempt() -> None:
        with world.device(probe=deadly, attempts=3) as device:
            device.update()

    for _ in range(3):
        assert killed_at(10**9, attempt)
        assert slots.load().data == FIRST
    assert not killed_at(10**9, attempt)  # it was tried three times, and is not any more
    with world.device(attempts=3) as device:
        assert device.slots.state.failed[0].version == 2
        assert device.update() is None
        assert device.refused["failed"] == 1


def test_a_rollback_killed_before_every_change_of_a_file(world):
    with world.device() as device:
        device.update()
        world.publish(SECOND)
        device.update()
        slots = device.slots
    number = 1
    while killed_at(number, lambda: controls.roll_back(slots, "a test")):
        assert slots.load().data in {FIRST, SECOND}
        number += 1
    assert slots.load().data == FIRST
    assert number > 2


@pytest.mark.slow
def test_a_repository_killed_before_every_change_of_a_file(world):
    """Whatever it left is what devices had before, or the new version; and the next one is published as ever."""
    with world.device() as device:
        device.update()
    model = world.folder / "second.onnx"
    model.write_bytes(SECOND)

    def publish() -> None:
        Repository.open(world.folder / "repository", clock=world.clock).publish(model, Facts(round=2))

    number = 1
    while killed_at(number, publish):
        with world.device(f"other-{number}") as device:
            assert device.update() is not None
            assert world.running(device) in {FIRST, SECOND}
        if world.reopened().versions()[-1].number == 2:
            break  # it is out; only old files were left to be removed
        number += 1
    assert number > 15
    world.reopened().publish(model, Facts(round=3))
    with world.device() as device:
        assert device.update() is not None
        assert world.running(device) == SECOND
