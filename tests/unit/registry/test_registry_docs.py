"""docs/delivery.md says what is so."""

from pathlib import Path

from registry_worlds import World, golden, moved, weights

from fedmesh.errors import REGISTRY_CODES
from fedmesh.registry.describing import Facts

PAGE = (Path(__file__).parents[3] / "docs" / "delivery.md").read_text("utf-8")


def test_every_code_is_explained():
    codes = PAGE[PAGE.index("## What is refused") : PAGE.index("## For programs")]
    assert all(f"| `{code}` |" in codes for code in REGISTRY_CODES)


def test_every_file_of_a_device_is_named(tmp_path):
    world = World(tmp_path)
    world.publish(first := weights(1), golden=golden())
    with world.device() as device:
        device.update()
        world.publish(moved(first), golden=golden(), facts=Facts(round=2))
        device.update()
    folder = tmp_path / "device-1"
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        named = {f"`{name}`", f"`{name}/`", f"`{path.name}`", f"`{path.parent.name}/{path.name}`"}
        assert any(text in PAGE for text in named) or path.name == "slots", name
