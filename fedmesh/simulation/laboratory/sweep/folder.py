"""The folder of a sweep, and how far each of its runs has come.

::

    DIR/runs/<mode>-eps<epsilon>-seed<seed>/   a run directory like any other; <the same>.log what the run printed
    DIR/sweep.csv, sweep.json, sweep.png       at the end

A cell is known by its scenario: a run of other settings under its name is never taken for it.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedmesh.errors import ConfigError
from fedmesh.federation.directory import RunDirectory
from fedmesh.federation.scenario import Scenario
from fedmesh.simulation.laboratory.sweep.cells import Cell

__all__ = ["Standing", "SweepFolder"]

Standing = Literal["new", "begun", "finished"]

_MOST_CELLS, _MOST_KEYS = 3, 4
"""So many cells that differ, and keys of each, are told."""


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Paths of a sweep."""

    path: Path

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> "Iterator[SweepFolder]":
        """The folder, made if it is missing, for this process alone until the context ends.

        Raises:
            ConfigError: it cannot be made, is a run's, or another sweep is at work in it.
        """
        if (path / "run.json").exists():
            raise ConfigError(f"{path} is the directory of a single run: choose another --out")
        try:
            (path / "runs").mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(
                f"the folder {path} cannot be written: {error.strerror or error}; choose another --out"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another sweep is at work in {path}: wait for it, or choose another --out"
                ) from error
            yield cls(path)
        finally:
            os.close(descriptor)

    def run(self, cell: Cell) -> Path:
        """The run directory of `cell`."""
        return self.path / "runs" / cell.name

    def standing(self, cells: Iterable[Cell]) -> dict[Cell, Standing]:
        """How far each cell has come.

        Raises:
            ConfigError: there are runs of other settings in their places; the message says what differs.
        """
        found, others = {}, []
        for cell in cells:
            folder = self.run(cell)
            standing, scenario = _look_at(folder)
            if scenario is not None and (changes := _changes(scenario, cell.scenario)):
                others.append(f"{cell.name}: {changes}")
            found[cell] = standing
        if others:
            more = f"\nand {len(others) - _MOST_CELLS} more" if len(others) > _MOST_CELLS else ""
            raise ConfigError(
                f"{self.path} holds runs of another scenario:\n"
                + "\n".join(others[:_MOST_CELLS])
                + more
                + "\nChoose another --out, put the scenario back, or delete those folders to have them run anew"
            )
        return found


def _look_at(folder: Path) -> tuple[Standing, Scenario | None]:
    """How far the run in `folder` has come, and what it is a run of."""
    if not (folder / "run.json").exists():
        _clear_what_never_began(folder)
        return "new", None
    scenario = RunDirectory.open(folder).scenario
    try:
        config = json.loads((folder / "result.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return "begun", scenario
    return "finished", Scenario.parse(config, source=str(folder / "result.json"))


def _clear_what_never_began(folder: Path) -> None:
    """Removes what a run leaves that was killed before it had a run.json, and nothing else."""
    if not folder.exists():
        return
    left = list(folder.iterdir())
    strange = [path for path in left if path.name != "ledgers" and not path.name.startswith(".run.json.")]
    strange += list((folder / "ledgers").iterdir()) if folder / "ledgers" in left else []
    if strange:
        raise ConfigError(f"{folder} is no run, and not empty: choose another --out, or empty it")
    for path in left:
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _changes(there: Scenario, wanted: Scenario) -> str:
    """What differs, in words; empty if nothing does."""
    before, after = _dotted(there.model_dump(mode="json")), _dotted(wanted.model_dump(mode="json"))
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    told = [f"{key} was {_written(before, key)}, is now {_written(after, key)}" for key in changed[:_MOST_KEYS]]
    return "; ".join([*told, *([f"and {len(changed) - _MOST_KEYS} more"] if len(changed) > _MOST_KEYS else [])])


def _written(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not set"


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of all nested tables; an empty table says nothing."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
