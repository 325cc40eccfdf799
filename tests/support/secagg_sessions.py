"""Federations for tests of secure aggregation: identities, headers, devices and what their sum has to be."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmesh.secagg import Aggregator, Identity, Participant, Policy, Ring, Roster, SessionHeader

AGGREGATOR = "aggregator"


@functools.cache
def identity(name: str) -> Identity:
    """The same key pair for the same name, all through the tests."""
    return Identity.from_private(name.encode().rjust(32, b"."))


def names(count: int) -> tuple[str, ...]:
    """device-00, device-01, ..."""
    return tuple(f"device-{number:02}" for number in range(count))


@functools.cache
def roster(count: int) -> Roster:
    """The devices' and the aggregator's identity keys."""
    return Roster({name: identity(name).public for name in (*names(count), AGGREGATOR)})


def header(count: int, **changes: object) -> SessionHeader:
    """The header of a session of `count` devices that every default policy accepts."""
    cap = int(changes.get("weight_cap", 1))  # type: ignore[call-overload]
    threshold = int(changes.get("threshold", SessionHeader.threshold_for(count)))  # type: ignore[call-overload]
    facts = {
        "task": "task",
        "round": 3,
        "attempt": 1,
        "cohort": names(count),
        "threshold": threshold,
        "min_cohort": threshold,
        "ring_bits": Ring.bits_for(count, cap, 8),
        "length": 3,
        "weight_cap": cap,
        "layout_hash": b"layout",
        "scale_hash": b"scale",
        "model_hash": b"model",
    }
    return SessionHeader(**{**facts, **changes})  # type: ignore[arg-type]


@dataclass
class Federation:
    """The devices of a session with their inputs; without a `folder` they remember nothing beyond their lives."""

    header: SessionHeader
    vectors: dict[str, NDArray[np.int64]]
    weights: dict[str, int] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    folder: Path | None = None

    @classmethod
    def of(
        cls, count: int, *, folder: Path | None = None, policy: Policy | None = None, **changes: object
    ) -> "Federation":
        """Devices with inputs of their own: the first has 1, -1, 1, ..., the second 2, -2, 2, ..."""
        made = header(count, **changes)
        vectors = {
            name: np.array([(place + 1) * (-1) ** step for step in range(made.length)], np.int64)
            for place, name in enumerate(made.cohort)
        }
        return cls(made, vectors, folder=folder, policy=policy or Policy())

    @property
    def roster(self) -> Roster:
        """Everybody's identity keys."""
        return roster(len(self.header.cohort))

    def store_path(self, name: str) -> Path | None:
        """Where the device remembers what it signed."""
        return self.folder and self.folder / f"{name}.secagg"

    def device(self, name: str) -> Participant:
        """A device that has just started."""
        return Participant(name, identity(name), self.roster, self.policy, self.store_path(name))

    def reopened(self, device: Participant) -> Participant:
        """The device after a restart: its sealed state and its store are all that is left."""
        sealed = device.seal()
        device.close()
        path = self.store_path(device.name)
        return Participant.unseal(device.name, identity(device.name), self.roster, self.policy, sealed, path)

    def devices(self) -> dict[str, Participant]:
        """All of them."""
        return {name: self.device(name) for name in self.header.cohort}

    def begin(self, devices: dict[str, Participant]) -> dict[str, bytes]:
        """Their advertise messages."""
        return {
            name: device.begin(self.header, self.vectors[name], self.weights.get(name, 1))
            for name, device in devices.items()
        }

    def aggregator(self) -> Aggregator:
        """One that has just started."""
        return Aggregator(self.header, identity(AGGREGATOR), self.roster)

    def sum_over(self, survivors: tuple[str, ...]) -> list[int]:
        """The sum of these devices' weighted inputs, then of their weights, by Python's integers."""
        weights = {name: self.weights.get(name, 1) for name in survivors}
        sums = [
            sum(weights[name] * int(self.vectors[name][place]) for name in survivors)
            for place in range(self.header.length)
        ]
        return [*sums, sum(weights.values())]
