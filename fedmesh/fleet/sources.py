"""Where the examples of a device come from: a file, a part of a data set, or a function of the operator's.

They are read when they are first needed, mapped to features where the run has them, and held as long as the training
process lives.
"""

import importlib
from pathlib import Path

import numpy as np

from fedmesh.configuration.learner import DataSetData, HookData, NpzData
from fedmesh.errors import ConfigError, DataError
from fedmesh.features import FeatureMap
from fedmesh.types import Examples

__all__ = ["Source"]


class Source:
    """The examples of this device, whatever its number in a Context.

    Args:
        data: of the configuration.
        features: the run's feature map; None: examples are taken as they are.
    """

    def __init__(self, data: NpzData | DataSetData | HookData, features: FeatureMap | None = None) -> None:
        self._data, self._features = data, features
        self._examples: Examples | None = None

    def __call__(self, device: int = 0) -> Examples:  # noqa: ARG002 - what a client app's DataSource is called with
        """The examples. Raises: DataError, ConfigError: they cannot be had, or are none."""
        if self._examples is None:
            raw = checked(_read(self._data))
            self._examples = raw if self._features is None else Examples(self._features(raw.x), raw.y)
        return self._examples


def _read(data: NpzData | DataSetData | HookData) -> Examples:
    match data:
        case NpzData():
            return _file(data.path)
        case DataSetData():
            return _part(data)
        case HookData():
            return _asked(data.function)


def _file(path: Path) -> Examples:
    from fedmesh.federation.datasets.files import read_npz

    if not path.is_file():
        raise DataError(f"there is no file {path}: [data] path names an .npz file with x and y")
    stored = read_npz(path, required=("x", "y"))
    return Examples(stored["x"], stored["y"])


def _part(data: DataSetData) -> Examples:
    """As a simulation of the scenario `data.name` deals its data set."""
    from fedmesh.federation import scenarios
    from fedmesh.federation.datasets import load, split_as

    scenario = scenarios.load(data.name, {"partition.clients": data.of})
    return split_as(load(scenario.data.name, data.folder), scenario).devices[data.partition]


def _asked(function: str) -> Examples:
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"[data] function {function!r} is not there ({error}): write module:function") from error
    made = found()
    if isinstance(made, Examples):
        return made
    if isinstance(made, tuple) and len(made) == 2:
        return Examples(np.asarray(made[0]), np.asarray(made[1]))
    raise DataError(f"[data] function {function!r} returned a {type(made).__name__}: wanted x and y")


def checked(examples: Examples) -> Examples:
    """Raises: DataError: x is not finite float32 [N, ...], or y not int64 [N]."""
    x, y = examples.x, examples.y
    if x.dtype != np.float32 or x.ndim < 2 or y.dtype != np.int64 or y.shape != x.shape[:1]:
        raise DataError(
            f"the device's data has x {x.dtype}{list(x.shape)} and y {y.dtype}{list(y.shape)}: wanted x "
            "float32[N, ...] and y int64[N]"
        )
    if not np.isfinite(x).all():
        raise DataError("the device's data holds NaN or infinity: repair or remove those examples")
    return examples
