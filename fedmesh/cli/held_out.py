"""Which examples a model may be judged on: those that no device trained on and the server did not see."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fedmesh.errors import ConfigError, DataError
from fedmesh.federation.scenarios import shipped
from fedmesh.types import Examples

if TYPE_CHECKING:
    from fedmesh.federation.scenario import Scenario

__all__ = ["held_out"]


def held_out(data: str, model: Path, data_dir: Path | None) -> tuple[Examples, str]:
    """The examples, and in words which ones they are.

    Of a data set by name: its official test part; or, without one, and where the run drew people of its own, what the
    run beside `model` held out (the scenario that comes with fedmesh, for a model that lies alone; another seed cuts
    another way, and the words say so). Of a file: its test part, or all of it.

    Raises:
        ConfigError: unknown, missing or malformed data, or no way to tell what was held out.
    """
    from fedmesh.federation.datasets import load, split_as

    if data_dir is not None and not data_dir.is_dir():
        raise ConfigError(f"the data directory {data_dir} is not there: correct --data-dir or FEDMESH_DATA")
    dataset = load(data, data_dir)
    run = _scenario_beside(model)
    people = run is not None and run.data.name == data and run.data.held_out == "ids"
    if dataset.test is not None and not people:  # of such a run, the test part's people may be devices
        return dataset.test, f"test part of {data}"
    if run is not None and run.data.name == data:
        origin = f"held out of {data} in the run {model.parent} (seed {run.seed})"
    elif data.endswith(".npz"):
        return Examples(dataset.x, dataset.y), f"all of {data}"
    else:
        run = _shipped_scenario(data)
        origin = f"held out of {data} by the scenario {run.name} as it comes (seed {run.seed}): no run beside the model"
    return split_as(dataset, run).held_out, origin


def _scenario_beside(model: Path) -> "Scenario | None":
    """The scenario of the run directory that the model lies in, if it lies in one."""
    from fedmesh.federation.scenario import Scenario

    file = model.parent / "run.json"
    try:
        tables = json.loads(file.read_text(encoding="utf-8"))["scenario"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error}): which examples were held out is not known") from error
    return Scenario.parse(tables, source=str(file))


def _shipped_scenario(data: str) -> "Scenario":
    from fedmesh.federation.scenario import Scenario

    for path in shipped().values():
        scenario = Scenario.load(path)
        if scenario.data.name == data:
            return scenario
    raise DataError(
        f"no scenario says what is held out of {data!r}: run the model from its run directory, or give FILE.npz with "
        "the examples to run"
    )
