"""A strategy of one's own: FedAvg with a server's momentum. `build` is what the entry point in pyproject.toml names."""

from typing import Any

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.types import Float32
from fedmesh_strategies.fedavg import FedAvg


class Momentum(FedAvg):
    """FedAvg whose step keeps moving (Hsu et al. 2019)."""

    def __init__(self, *, momentum: float = 0.9, **settings: Any) -> None:
        super().__init__(**settings)
        self.momentum = momentum
        self.velocity = np.zeros(self.layout.size, np.float32)

    def move(self, weights: Float32, delta: Float32) -> Float32:
        self.velocity = self.momentum * self.velocity + delta
        return weights + self.velocity

    def snapshot(self) -> dict[str, Any]:
        return super().snapshot() | {"velocity": self.velocity}

    def restore(self, state: Any) -> None:
        super().restore({name: value for name, value in state.items() if name != "velocity"})
        self.velocity = state["velocity"]


def build(**settings: Any) -> Momentum:
    """From the scenario's settings and its [strategy.options]."""
    try:
        return Momentum(**settings)
    except TypeError as error:
        raise ConfigError(f"the strategy 'momentum' does not take these settings: {error}") from error
