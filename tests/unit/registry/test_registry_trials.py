"""Which version a device runs once one fails its probe or its trial, is rolled back, or is pinned."""

import hashlib
from pathlib import Path

import pytest
from registry_worlds import FIRST, SECOND, Spying, World, code_of, moved, refuse, weights, with_first

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.events import ModelRefused, ModelRolledBack
from fedmesh.registry import controls


@pytest.fixture
def world(tmp_path: Path) -> World:
    return with_first(tmp_path)


def test_a_model_that_fails_its_probe_is_not_tried_again(world):
    with world.device() as device:
        device.update()
    world.publish(SECOND)
    source = Spying(world.public)
    with world.device(probe=refuse, source=source) as device:
        assert code_of(device.update) == "probe"
        assert isinstance(world.events[-1], ModelRefused)
        assert world.events[-1].version == 2
        assert "the logits differ" in world.events[-1].reason
        assert world.running(device) == FIRST
        source.asked.clear()
        assert device.update() is None
        assert not source.chunks()
        assert device.refused == {"probe": 1, "failed": 1}
    world.publish(SECOND)  # a higher version of the same file is another matter
    with world.device() as device:
        assert device.update().version == 3


def test_rollback_goes_to_the_version_before_and_stays_there(world):
    with world.device() as device:
        device.update()
        world.publish(SECOND)
        device.update()
        generation = device.slots.state.generation
        assert device.rollback("its health check failed") == 1
        assert world.events[-1] == ModelRolledBack(2, 1, "its health check failed")
        assert device.slots.state.generation > generation
        assert world.running(device) == FIRST
        assert device.update() is None
        assert device.rollback("this one, too") is None  # a bad model does not stay, and there is no other
        assert device.current is None
        assert device.update() is None


def test_a_rollback_while_the_other_slot_is_written_does_not_mix_them_up(world):
    """The health check of what runs fails in another thread, just then."""

    class Files(dict[str, bytes]):
        def items(self):
            assert device.rollback("its health check failed") is None
            return super().items()

    with world.device() as device:
        device.update()
        files = Files({"model.onnx": SECOND, "manifest.cbor": b"manifest"})
        assert device.slots.fill(files, 2, hashlib.sha256(SECOND).digest(), bytes(32)) == "b"
        state = device.slots.state
        assert (state["a"].state, state["b"].state, state["b"].version, state.active) == ("bad", "pending", 2, "")


def test_a_trial_ends_with_a_commit_or_with_the_version_before(world):
    with world.device(trial=True) as device:
        device.update()
        device.commit()
        world.publish(SECOND)
        assert device.update() is not None
        assert device.slots.state.running.state == "trying"
    for _ in range(2):
        with world.device(trial=True, attempts=3) as device:
            assert world.running(device) == SECOND
    with world.device(trial=True, attempts=3) as device:  # three starts, and nobody said that it is well
        assert world.running(device) == FIRST
        assert isinstance(world.events[-1], ModelRolledBack)
        world.publish(weights(3))
        assert device.update().version == 3
        device.commit()
        assert device.slots.state.running.state == "good"
        assert device.slots.state.highest == 3


def on_trial(world, **options):
    """A device on which version 1 is good, and version 2 on trial."""
    device = world.device(trial=True, **options)
    device.update()
    device.commit()
    world.publish(SECOND)
    device.update()
    assert device.slots.state.running.state == "trying"
    return device


def test_a_newer_version_takes_the_place_of_one_on_trial_and_the_good_one_stays(world):
    with on_trial(world) as device:
        third = moved(SECOND)
        world.publish(third)
        assert device.update().version == 3
        state = device.slots.state
        assert (state.running.version, state.running.state) == (3, "trying")
        assert (state[state.spare].version, state[state.spare].state) == (1, "good")
        assert world.events[-1].as_delta, "from the one that was on trial"
        assert device.rollback("its health check failed") == 1
        assert [item.version for item in device.slots.state.failed] == [3]


def test_where_the_newer_version_fails_its_probe_the_good_one_runs(world):
    with on_trial(
        world, probe=lambda path, manifest: refuse(path, manifest) if manifest.version == 3 else None
    ) as device:
        world.publish(moved(SECOND))
        with pytest.raises(RegistryError) as caught:
            device.update()
        assert caught.value.code == "probe"
        assert world.running(device) == FIRST


def test_during_a_trial_a_pin_brings_back_the_version_before(world):
    with on_trial(world) as device:
        controls.pin(device.slots, 1)
        assert device.update().version == 1
        state = device.slots.state
        assert (state.running.version, state.running.state, state[state.spare].state) == (1, "good", "empty")
        controls.unpin(device.slots)
        assert device.update().version == 2, "it did not fail"


def test_a_pin_holds_against_a_rollout_and_brings_back_what_was_pinned(world):
    with world.device() as device:
        device.update()
        controls.pin(device.slots, 1)
        world.publish(SECOND)
        assert device.update() is None
        controls.unpin(device.slots)
        assert device.update().version == 2
        controls.pin(device.slots, 1)
        source_free = device.update()
        assert source_free.version == 1  # it was in the other slot
        assert device.update() is None
        controls.pin(device.slots, 9)  # is not there: what runs runs
        assert device.update() is None
        controls.pin(device.slots, 2)
        assert device.update().version == 2
        with pytest.raises(ConfigError, match="no version 0"):
            controls.pin(device.slots, 0)


def test_a_pin_gives_a_version_that_failed_another_chance(world):
    with world.device() as device:
        device.update()
        world.publish(SECOND)
        device.update()
        device.rollback("by mistake")
        assert device.update() is None
        controls.pin(device.slots, 2)
        assert device.update().version == 2
        assert device.rollback("again") == 1
        assert device.slots.state.pinned is None


def test_rollback_wants_a_version_that_is_whole(world):
    with world.device() as device:
        with pytest.raises(ConfigError, match="nothing runs"):
            controls.roll_back(device.slots, "x")
        device.update()
        with pytest.raises(ConfigError, match="only good one"):
            controls.roll_back(device.slots, "x")
        world.publish(SECOND)
        device.update()
        (device.slots.path("a") / "model.onnx").write_bytes(b"rotten")
        with pytest.raises(ConfigError, match="only good one"):
            controls.roll_back(device.slots, "x")
        assert world.running(device) == SECOND
