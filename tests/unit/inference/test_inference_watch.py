"""What is in the slot runs; what is bad there is told once, and not tried again until the slot changes."""

import threading
from pathlib import Path

import numpy as np
import pytest
from served_models import FEATURES, write_constant

from fedmesh.errors import ConfigError
from fedmesh.events import Event, SwapRefused
from fedmesh.inference import HealthLimits, LiveModel
from fedmesh.inference.serving.server import _watched
from fedmesh.inference.watch import FolderSlots, Watch

ONE = np.zeros((1, FEATURES), np.float32)


def fill(slot: Path, label: int) -> None:
    slot.mkdir(exist_ok=True)
    write_constant(slot / "new", label)
    (slot / "new").replace(slot / "model.int8.onnx")


def point(folder: Path, name: str) -> None:
    temporary = folder / "next"
    temporary.symlink_to(name)
    temporary.replace(folder / "current")


def test_follows_the_slots(tmp_path: Path) -> None:
    live = LiveModel(limits=HealthLimits(window=1))
    watch = Watch(FolderSlots(tmp_path), live)
    assert not watch.look()
    assert live.current is None
    fill(tmp_path / "a", 1)
    point(tmp_path, "a")
    assert watch.look()
    assert not watch.look()
    fill(tmp_path / "b", 2)
    assert not watch.look()  # the other slot is being filled
    point(tmp_path, "b")
    assert watch.look()
    assert live.predict(ONE)[0].label == 2
    fill(tmp_path / "a", 3)
    point(tmp_path, "a")
    assert watch.look()  # the same name, another file
    assert live.predict(ONE)[0].label == 3


def test_what_is_refused_is_told_once(tmp_path: Path) -> None:
    told: list[Event] = []
    refused: list[tuple[Path, str]] = []
    live = LiveModel(events=told.append)
    watch = Watch(FolderSlots(tmp_path), live, on_refused=lambda path, reason: refused.append((path, reason)))
    fill(tmp_path / "a", 1)
    point(tmp_path, "a")
    watch.look()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.int8.onnx").write_bytes(b"junk" * 100)
    point(tmp_path, "b")
    for _ in range(3):
        assert not watch.look()
    assert live.predict(ONE)[0].label == 1
    assert [path for path, _ in refused] == [tmp_path / "b" / "model.int8.onnx"]
    assert [type(event) for event in told].count(SwapRefused) == 1
    fill(tmp_path / "b", 2)
    assert watch.look()


def test_a_file_that_names_the_slot(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    (tmp_path / "current").write_text("a\n")
    assert FolderSlots(tmp_path).current() == tmp_path / "a" / "model.int8.onnx"
    (tmp_path / "current").write_text("a/model.int8.onnx")
    assert FolderSlots(tmp_path).current() == tmp_path / "a" / "model.int8.onnx"
    (tmp_path / "current").write_text("nothing")
    assert FolderSlots(tmp_path).current() is None


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", ".", "a/../..", "a\0b"])
def test_nothing_outside_the_folder_is_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "slots"
    folder.mkdir()
    fill(tmp_path / "outside", 1)
    (folder / "current").write_text(name)
    live = LiveModel()
    watch = Watch(FolderSlots(folder), live)
    assert not watch.look()
    assert "not inside" in watch.trouble
    if "\0" not in name:
        (folder / "current").unlink()
        point(folder, name)
        assert not watch.look()
        assert "not inside" in watch.trouble


def test_trouble_is_over_when_it_is_over(tmp_path: Path) -> None:
    watch = Watch(FolderSlots(tmp_path), LiveModel())
    (tmp_path / "current").write_text("x" * 300)
    watch.look()
    assert "larger than 255" in watch.trouble
    (tmp_path / "current").unlink()
    watch.look()
    assert watch.trouble == ""


def test_who_is_told_may_fail(tmp_path: Path) -> None:
    def fails(_path: Path, _reason: str) -> None:
        raise ConfigError("the disk is full")

    (tmp_path / "current").write_text("m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"junk")
    watch = Watch(FolderSlots(tmp_path), LiveModel(), on_refused=fails)
    assert not watch.look()
    assert watch.trouble == "the disk is full"


def test_no_folder() -> None:
    with pytest.raises(ConfigError, match="not a folder of slots"):
        FolderSlots(Path("/nonexistent"))


def test_an_endpoint_looks_again_whatever_happened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_constant(tmp_path / "m.onnx", 1)
    swapped, stop = threading.Event(), threading.Event()

    class Odd:
        """Fails once as nobody expects."""

        failed = False

        def current(self) -> Path:
            if not self.failed:
                self.failed = True
                raise ValueError("odd")
            return tmp_path / "m.onnx"

    live = LiveModel(events=lambda _event: swapped.set())
    thread = threading.Thread(target=_watched, args=(Watch(Odd(), live, poll_s=0.01), stop))
    thread.start()
    assert swapped.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert "tried again" in caplog.text


def test_runs_until_it_is_stopped(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    point(tmp_path, "a")
    swapped, stop = threading.Event(), threading.Event()
    live = LiveModel(events=lambda _event: swapped.set())
    thread = threading.Thread(target=Watch(FolderSlots(tmp_path), live, poll_s=0.01).run, args=(stop,))
    thread.start()
    assert swapped.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
