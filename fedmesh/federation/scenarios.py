"""Finding scenarios: a TOML file by its path, or one of those that come with fedmesh by its name."""

import difflib
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fedmesh
from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.federation.scenario import Scenario

__all__ = ["find", "load", "shipped"]


def shipped() -> dict[str, Path]:
    """Name -> file of every scenario that came with this installation, by name."""
    schemes = {sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")}
    folders = [Path(sysconfig.get_path("data", scheme)) / "share/fedmesh/simulations" for scheme in sorted(schemes)]
    checkout = Path(fedmesh.__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():  # installed with pip -e: its scenarios go over others of their name
        folders.append(checkout / "simulations")
    files = [file for folder in folders for file in folder.glob("*.toml")]
    return {file.stem: file for file in sorted(files, key=lambda file: file.stem)}


def find(scenario: str) -> Path:
    """The file of `scenario`, a name or a path.

    Raises:
        ConfigError: there is none; the message names the nearest ones.
    """
    path = Path(scenario)
    if scenario.endswith(".toml") or len(path.parts) > 1:
        if not path.is_file():
            raise ConfigError(
                f"there is no scenario file {scenario}: give a TOML file, or a name of `fedmesh scenarios`"
            )
        return path
    names = shipped()
    if scenario in names:
        return names[scenario]
    near = difflib.get_close_matches(scenario, names, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names) or 'none installed'}."
    raise ConfigError(
        f"there is no scenario {scenario!r}: {advice} A file is given by its path, as in ./{scenario}.toml"
    )


def load(scenario: str, overrides: Mapping[str, Any] | None = None) -> "Scenario":
    """The scenario of that name or file, with dotted `overrides` put over it.

    Raises:
        ConfigError: there is none, or it says something that is not a scenario.
    """
    from fedmesh.federation.scenario import Scenario

    return Scenario.load(find(scenario), overrides)
