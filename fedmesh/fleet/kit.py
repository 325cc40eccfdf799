"""What a run without a coordinator is made of, as one blob that its charter names by SHA-256.

::

    CBOR ["fedmesh-kit/1", client app, scenario as JSON, task as CBOR, feature map or nothing, [[array, shape], ...]]

Everything in it is public. A member holds the task against its operator's policy, as it does a coordinator's offer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.types import Layout
from fedmesh.wire import dumps, loads

__all__ = ["MAX_KIT_BYTES", "Kit"]

MAX_KIT_BYTES = 1 << 26
_FORMAT = "fedmesh-kit/1"
_MAX_ARRAYS = 4096


@dataclass(frozen=True, slots=True)
class Kit:
    """One run's.

    Attributes:
        client: the client app (entry point of fedmesh.clients).
        scenario: resolved, plain data. task: `Task.to_plain` as CBOR. features: a feature map's bytes, or none.
        layout: of the model's arrays.
    """

    client: str
    scenario: Mapping[str, Any]
    task: bytes
    features: bytes
    layout: Layout

    def to_bytes(self) -> bytes:
        """Deterministic: equal kits give equal bytes."""
        scenario = json.dumps(self.scenario, sort_keys=True).encode()
        arrays = [[name, list(shape)] for name, shape in zip(self.layout.names, self.layout.shapes, strict=True)]
        return dumps([_FORMAT, self.client, scenario, self.task, self.features, arrays])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises: DecodeError: these bytes are no kit."""
        match loads(data, max_bytes=MAX_KIT_BYTES, max_depth=4):
            case [str(form), str(client), bytes(scenario), bytes(task), bytes(features), list(arrays)] if (
                form == _FORMAT and 0 < len(client) <= 64
            ):
                return cls(client, _scenario(scenario), task, features, _layout(arrays))
        raise DecodeError(f"a run's kit does not have the fields of {_FORMAT}")

    def read_task(self) -> Task:
        """The task. Raises: DecodeError: there is none in it."""
        try:
            return Task.from_plain(loads(self.task, max_bytes=MAX_KIT_BYTES))
        except ConfigError as error:
            raise DecodeError(f"a run's kit has no task: {error}") from error


def _scenario(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"a run's kit has a scenario that is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise DecodeError("a run's kit has a scenario that is no table")
    return found


def _layout(arrays: list[Any]) -> Layout:
    names, shapes = [], []
    if not 0 < len(arrays) <= _MAX_ARRAYS:
        raise DecodeError(f"a run's kit has {len(arrays)} arrays: wanted 1 to {_MAX_ARRAYS}")
    for item in arrays:
        match item:
            case [str(name), list(shape)] if all(type(size) is int and 0 < size < 1 << 31 for size in shape):
                names.append(name)
                shapes.append(tuple(shape))
            case _:
                raise DecodeError("a run's kit has an array without a name and a shape")
    return Layout(tuple(names), tuple(shapes))
