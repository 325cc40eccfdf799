"""{device, coordinator, broker} x {steps of a delivery} x {kill -9, restart, cut, slow}: no model is half installed.

The steps are those of `Installer.update`: every file that it asks for, in its order, is a moment at which the device is
killed or started anew, the source is cut, or what comes is slow or torn. `kill -9` at every change of a file is in
test_registry_crash.py.
"""

import time
from pathlib import Path

import pytest
from killed_installation import killed_at
from registry_worlds import Spying, World, accept, golden, moved, weights

from fedmesh.errors import PeerError, RegistryError
from fedmesh.registry import Manifest
from fedmesh.registry.describing import Facts
from fedmesh.registry.install import Installer
from fedmesh.registry.proof import verify_folder

FIRST = weights(1, 160_000)  # three chunks
SECOND = weights(2, 160_000)  # no delta helps
THIRD = moved(SECOND)
"""Is fetched as a delta."""


class KilledError(BaseException):
    """The process is no more."""


class Struck(Spying):
    """A source at whose n-th file a fault strikes, once."""

    def __init__(self, folder: Path, number: int, kind: str) -> None:
        super().__init__(folder)
        self._number, self.kind, self.struck = number, kind, ""

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        data = super().fetch(name, max_bytes=max_bytes)
        if self.struck or len(self.asked) < self._number:
            return data
        self.struck = name
        match self.kind:
            case "kill":
                raise KilledError
            case "restart":
                raise KeyboardInterrupt  # SIGTERM reaches the agent while this waits
            case "cut":
                raise PeerError("the link is down")
            case "slow":
                time.sleep(0.01)
                raise PeerError("no answer in time")
            case "torn":
                return data[: len(data) // 2]
        raise AssertionError(self.kind)


def whole(world: World, device: Installer, old: bytes | None, new: bytes) -> bytes | None:
    """What runs: the old model or the new one, allowed and to the last bit."""
    found = device.slots.load()
    if found is None:
        assert old is None
        return None
    assert found.data in {old, new}
    assert verify_folder(found.folder, world.root).version == found.manifest.version
    return found.data


@pytest.mark.parametrize("kind", ["kill", "restart", "cut", "slow", "torn"])
def test_a_device_that_is_struck_at_every_file_of_a_delivery(tmp_path, kind):
    """The first model, one that replaces it, and a third that comes as a delta."""
    world, cases = World(tmp_path), 0
    for data in (FIRST, SECOND, THIRD):
        world.publish(data, golden=golden())
        number = 1
        while struck(world, f"device-{number}", number, kind, data):
            number += 1
        cases += number - 1
    assert cases > 15


def struck(world: World, name: str, number: int, kind: str, new: bytes) -> bool:
    """One case; False: so many files are not asked for."""
    source = Struck(world.public, number, kind)
    with world.device(name, source=source) as device:
        found = device.slots.load()
        old = None if found is None else found.data
        try:
            device.update()
        except (KilledError, KeyboardInterrupt, PeerError, RegistryError):
            assert source.struck
    with world.device(name) as device:
        if whole(world, device, old, new) != new:
            assert device.update() is not None
        assert whole(world, device, old, new) == new
        assert device.update() is None
        assert not device.slots.state.failed, "the network's fault is not the version's"
        assert not list((world.folder / name / "chunks").glob("*")), "it would stay for ever"
    return bool(source.struck)


@pytest.mark.parametrize("error", [KilledError, KeyboardInterrupt])
def test_a_device_that_ends_during_its_probe(tmp_path, error):
    world = World(tmp_path)
    world.publish(FIRST, golden=golden())
    with world.device() as device:
        device.update()
    world.publish(SECOND, golden=golden())

    def ends(path: Path, manifest: Manifest) -> None:
        accept(path, manifest)
        raise error

    for _ in range(2):
        with world.device(probe=ends) as device, pytest.raises(error):
            device.update()
    with world.device() as device:
        assert world.running(device) == FIRST
        assert device.update() is not None
        assert world.running(device) == SECOND


def test_a_coordinator_that_is_killed_while_it_publishes_is_asked_again(tmp_path):
    """The chunks are there, the metadata is not: devices see nothing of it until it is published anew."""
    world = World(tmp_path)
    world.publish(FIRST, golden=golden())
    with world.device() as device:
        device.update()
    model = world.folder / "second.onnx"
    model.write_bytes(SECOND)
    number = 1
    while killed_at(number, lambda: world.reopened().publish(model, Facts(round=2))) and number < 8:
        with world.device() as device:
            device.update()
            assert whole(world, device, FIRST, SECOND) is not None
        number += 1
    assert number > 3
    world.reopened().publish(model, Facts(round=2))
    with world.device() as device:
        device.update()
        assert world.running(device) == SECOND
