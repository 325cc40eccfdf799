"""A repository and its devices in a folder, on a clock that a test moves, over sources that a test corrupts."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fedmesh.errors import RegistryError
from fedmesh.registry import FolderSource, GoldenSet, Manifest
from fedmesh.registry.describing import Facts
from fedmesh.registry.founding import create
from fedmesh.registry.install import Installer
from fedmesh.registry.repository import Repository

DAY = 86_400.0
NOW = 1_900_000_000.0
"""Far from the machine's own time, which nothing here may depend on."""


def weights(seed: int, size: int = 3_000) -> bytes:
    """A model's bytes, as far as a registry knows."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def moved(data: bytes, seed: int = 9, part: float = 0.05) -> bytes:
    """The same model after a round: a few bytes moved by one."""
    array = np.frombuffer(data, np.uint8).copy()
    places = np.random.default_rng(seed).choice(len(array), int(len(array) * part), replace=False)
    array[places] += 1
    return array.tobytes()


FIRST = weights(1)
SECOND = moved(FIRST)


def golden() -> GoldenSet:
    """Two examples."""
    return GoldenSet(np.zeros((2, 3), np.float32), np.ones((2, 2), np.float32))


class Spying:
    """A source that notes what is asked of it, and lets a test change what comes."""

    def __init__(self, folder: Path) -> None:
        self._inner = FolderSource(folder)
        self.asked: list[str] = []
        self.change: Callable[[str, bytes], bytes] = lambda name, data: data

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        self.asked.append(name)
        data = self._inner.fetch(name, max_bytes=1 << 30)
        return self.change(name, data)

    def chunks(self) -> list[str]:
        return [name for name in self.asked if name.startswith("chunks/")]


class World:
    """One repository, and devices as a test wants them."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder, self.now = folder, NOW
        self.events: list[object] = []
        self.repository: Repository = create(folder / "repository", clock=self.clock, **options)
        self.public = folder / "repository" / "public"
        self.root = self.repository.root_bytes()

    def clock(self) -> float:
        return self.now

    def reopened(self, **options: object) -> Repository:
        self.repository = Repository(self.folder / "repository", clock=self.clock, **options)
        return self.repository

    def publish(self, data: bytes, **options: object):
        model = self.folder / "model.onnx"
        model.write_bytes(data)
        facts = options.pop("facts", Facts(task="digits", round=1))
        return self.repository.publish(model, facts, **options)

    def device(
        self, name: str = "device-1", *, source=None, probe=None, tags: Iterable[str] = (), **options
    ) -> Installer:
        return Installer(
            self.folder / name,
            source=source or Spying(self.public),
            probe=probe or accept,
            trusted_root=options.pop("trusted_root", self.root),
            device=name,
            tags=tags,
            clock=self.clock,
            events=self.events.append,
            **options,
        )

    def running(self, device: Installer) -> bytes:
        loaded = device.slots.load()
        assert loaded is not None
        return loaded.data


def with_first(folder: Path) -> World:
    """A world in which `FIRST` is published, as version 1."""
    made = World(folder)
    made.publish(FIRST, golden=golden())
    return made


def accept(path: Path, manifest: Manifest) -> None:
    """A probe that is content, once it sees that the files are there."""
    assert path.is_file()
    assert manifest.golden is None or GoldenSet.load(path.parent / "golden.cbor") is not None


def refuse(path: Path, manifest: Manifest) -> None:
    raise ValueError("the logits differ")


def code_of(call: Callable[[], object]) -> str:
    """The code with which a call is refused; empty: it is not."""
    try:
        call()
    except RegistryError as error:
        return error.code
    return ""
