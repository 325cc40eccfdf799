"""The rules of the folder: programs that are read in one go, all of them named in its README."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_a_program_is_under_60_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


def test_every_example_is_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    shown = [path.name for path in EXAMPLES.iterdir() if path.suffix == ".py" or (path / "README.md").exists()]
    assert shown
    assert all(f"`{name}" in readme for name in shown)
