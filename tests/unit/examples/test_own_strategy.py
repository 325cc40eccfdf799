"""The strategy in examples/own_strategy is found by its entry point, runs, and refuses what it does not know."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmesh import plugins
from fedmesh.errors import ConfigError
from fedmesh.federation.scenario import Scenario
from fedmesh.simulation.run import simulate

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "own_strategy"


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `pip install -e` leaves: the folder on the path, and the entry points that pyproject.toml states."""
    (points,) = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"].items()
    group, names = points
    info = tmp_path / "site" / "own_strategy-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-strategy\nVersion: 0.1.0\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(info.parent))
    yield
    sys.modules.pop("own_strategy", None)


@pytest.mark.usefixtures("_installed")
def test_a_scenario_chooses_it_by_name(tmp_path: Path) -> None:
    scenario = Scenario.load(EXAMPLE / "momentum.toml", {"rounds": 4})
    result = simulate(scenario, tmp_path / "run", workers=1)
    assert result["config"]["strategy"]["options"] == {"momentum": 0.5}
    assert result["final"]["accuracy_int8"] > result["start"]["accuracy_int8"] + 0.05


@pytest.mark.usefixtures("_installed")
def test_it_refuses_settings_that_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="speed"):
        plugins.load(plugins.STRATEGIES, "momentum")(speed=3)


def test_the_readme_of_strategies_shows_the_same_class() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "strategies" / "README.md").read_text(), re.DOTALL)
    shown = "\n".join(line.removeprefix("   ") for line in block.rstrip().splitlines())
    assert shown in (EXAMPLE / "own_strategy.py").read_text()
