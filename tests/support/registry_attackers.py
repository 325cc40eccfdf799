"""What an attacker of a registry starts from, and a device that must refuse what it makes of that."""

from pathlib import Path

from registry_worlds import World, code_of
from tuf.api.metadata import Metadata

from fedmesh.errors import REGISTRY_CODES, RegistryError
from fedmesh.events import ModelRefused


def snapshot_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Frozen:
    """A mirror that gives what it once saw, or what a test put in."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        if name not in self.files:
            raise RegistryError(f"no {name}", code="missing")
        return self.files[name]


def refused(world: World, source, code: str, *, name: str = "device-1", **options) -> None:
    """The device refuses what comes from `source` for this reason, counts it, tells of it, and runs what it ran."""
    assert code in REGISTRY_CODES
    with world.device(name, source=source, **options) as device:
        before = device.slots.state.running
        assert code_of(device.update) == code
        assert device.refused[code] >= 1
        assert isinstance(world.events[-1], ModelRefused)
        assert world.events[-1].code == code
        assert device.slots.state.running == before
        if before.version:
            assert device.slots.load() is not None


def installed(world: World, name: str = "device-1") -> None:
    with world.device(name) as device:
        assert device.update() is not None


def next_targets(world: World) -> Metadata:
    targets = Metadata.from_bytes(max(world.public.glob("metadata/*.targets.json")).read_bytes())
    targets.signed.version += 1
    targets.signatures.clear()
    return targets
