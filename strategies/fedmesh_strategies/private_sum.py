"""A strategy's side of privacy in the secure sum: what a round tells its devices, and the step that its sum gives."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import RoundError
from fedmesh.privacy.noise import KeyedNoise, NoiseSource, SystemNoise
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summed import SumSettings
from fedmesh.privacy.summing import mean_of, next_clip, server_noise
from fedmesh.types import Float32

__all__ = ["PrivateSum"]


class PrivateSum:
    """The rounds of one task, one after another.

    Args:
        settings: the devices' own.
        noise_seed: of the noise that a trusted server adds, to repeat a simulation; None: from the operating system.
    """

    def __init__(self, settings: SumSettings, *, noise_seed: int | None = None) -> None:
        self.settings = settings
        self.clip = settings.clip
        """Of the round under way, or the next."""
        self._noise_seed = noise_seed
        self._round: int | None = None
        self._rotation = b""

    def begin(self, number: int, weights: Float32) -> list[float]:
        """The scales that devices are told for round `number`: its clip."""
        self._round = number
        self._rotation = rotation_seed(number, weights)
        return [self.clip]

    def step(self, total: NDArray[np.int64], devices: int) -> Float32:
        """What the weights move by, float32 [P], from the sum of `devices` inputs; the clip moves on.

        Raises:
            RoundError: no round was begun, or fewer inputs are in the sum than its noise was sized for.
            DecodeError: the sum is not of this task.
        """
        settings, clip = self.settings, self.clip
        if self._round is None:
            raise RoundError("a sum is applied before a round was configured")
        if devices < settings.smallest_sum:
            raise RoundError(
                f"a sum of {devices} inputs came, the noise is sized for {settings.smallest_sum}: it is not used"
            )
        mean = mean_of(settings, total, devices, clip=clip, seed=self._rotation)
        if settings.trusted_server:
            mean = (mean + server_noise(settings, devices, clip=clip, noise=self._noise())).astype(np.float32)
        self.clip = next_clip(settings, total, devices, clip=clip)
        self._round = None
        return mean

    def snapshot(self) -> dict[str, Any]:
        """What outlives a round."""
        return {"clip": self.clip}

    def restore(self, state: Any) -> None:
        """Takes up a snapshot."""
        self.clip = float(state.get("clip", self.settings.clip))
        self._round = None

    def _noise(self) -> NoiseSource:
        if self._noise_seed is None:
            return SystemNoise()
        return KeyedNoise(self._noise_seed, "server", int(self._round or 0), self._rotation.hex())
