"""What is in the slot runs; what is bad there is told once, and not tried again until the slot changes."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from installed import install
from served_models import FEATURES, write_constant

from fedmesh.errors import ConfigError
from fedmesh.events import Event, SwapRefused, ignore
from fedmesh.inference import HealthLimits, LiveModel
from fedmesh.inference.serving.server import _watched
from fedmesh.inference.watch import Watch, installed, slots_in
from fedmesh.registry import Slots

ONE = np.zeros((1, FEATURES), np.float32)


def constant(folder: Path, label: int) -> bytes:
    write_constant(folder / "new.onnx", label)
    return (folder / "new.onnx").read_bytes()


def followed(folder: Path, **options: Any) -> tuple[Slots, LiveModel, Watch]:
    slots = Slots(folder / "slots")
    live = LiveModel(load=installed(slots), limits=HealthLimits(window=1), events=options.pop("events", ignore))
    return slots, live, Watch(slots, live, **options)


def test_follows_the_slots(tmp_path: Path) -> None:
    slots, live, watch = followed(tmp_path)
    assert not watch.look()
    assert live.current is None
    for label in (1, 2, 3):  # the third is in the slot of the first: the same name, another file
        install(slots, constant(tmp_path, label))
        assert watch.look()
        assert not watch.look()
        assert live.predict(ONE)[0].label == label


def test_what_is_refused_is_told_once(tmp_path: Path) -> None:
    told: list[Event] = []
    refused: list[tuple[Path, str]] = []
    slots, live, watch = followed(
        tmp_path, events=told.append, on_refused=lambda path, reason: refused.append((path, reason))
    )
    install(slots, constant(tmp_path, 1))
    watch.look()
    bad = install(slots, b"junk" * 100)
    for _ in range(3):
        assert not watch.look()
    assert live.predict(ONE)[0].label == 1
    assert [path for path, _ in refused] == [bad]
    assert [type(event) for event in told].count(SwapRefused) == 1
    install(slots, constant(tmp_path, 2))
    assert watch.look()


def test_a_file_that_was_not_installed_does_not_answer(tmp_path: Path) -> None:
    slots, live, watch = followed(tmp_path)
    write_constant(install(slots, constant(tmp_path, 1)), 2)
    assert not watch.look()
    assert live.current is None


def test_trouble_is_over_when_it_is_over(tmp_path: Path) -> None:
    slots, _, watch = followed(tmp_path)
    (slots.folder / "slots.cbor").write_bytes(b"junk")
    watch.look()
    assert "damaged" in watch.trouble
    (slots.folder / "slots.cbor").unlink()
    watch.look()
    assert watch.trouble == ""


def test_who_is_told_may_fail(tmp_path: Path) -> None:
    def fails(_path: Path, _reason: str) -> None:
        raise ConfigError("the disk is full")

    slots, _, watch = followed(tmp_path, on_refused=fails)
    install(slots, b"junk")
    assert not watch.look()
    assert watch.trouble == "the disk is full"


def test_slots_are_found_in_a_folder_of_a_device(tmp_path: Path) -> None:
    assert slots_in(tmp_path).folder == tmp_path
    install(Slots(tmp_path / "device" / "slots"), constant(tmp_path, 1))
    for named in (tmp_path / "device", tmp_path / "device" / "slots"):
        assert slots_in(named).current == tmp_path / "device" / "slots" / "a" / "model.onnx"
    with pytest.raises(ConfigError, match="not a folder of slots"):
        slots_in(Path("/nonexistent"))
    assert not Path("/nonexistent").exists()


def test_an_endpoint_looks_again_whatever_happened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_constant(tmp_path / "m.onnx", 1)
    swapped, stop = threading.Event(), threading.Event()

    class Odd:
        """Fails once as nobody expects."""

        failed = False

        @property
        def current(self) -> Path:
            if not self.failed:
                self.failed = True
                raise ValueError("odd")
            return tmp_path / "m.onnx"

    live = LiveModel(events=lambda _event: swapped.set())
    thread = threading.Thread(target=_watched, args=(Watch(Odd(), live, poll_s=0.01), stop))
    thread.start()
    assert swapped.wait(120)
    stop.set()
    thread.join(120)
    assert not thread.is_alive()
    assert "tried again" in caplog.text


def test_runs_until_it_is_stopped(tmp_path: Path) -> None:
    swapped, stop = threading.Event(), threading.Event()
    slots, live, _ = followed(tmp_path, events=lambda _event: swapped.set())
    install(slots, constant(tmp_path, 1))
    thread = threading.Thread(target=Watch(slots, live, poll_s=0.01).run, args=(stop,))
    thread.start()
    assert swapped.wait(120)
    stop.set()
    thread.join(120)
    assert not thread.is_alive()
