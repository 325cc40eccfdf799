"""What a device puts into a private sum, and what the server reads out of it: `SumSettings` on top of `skellam`.

Everything that is data passes a clip, a rounding whose norm is bounded and noise of the exact discrete law, in that
order; lengths and scales are public. Does not guarantee: that the others add their share of the noise. That is what
`SumSettings.colluders` and the floor of the secure sum are for.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.privacy import skellam
from fedmesh.privacy.noise import NoiseSource
from fedmesh.privacy.summed import BIT, LARGEST_CLIP, SMALLEST_CLIP, SumSettings
from fedmesh.types import Float32

__all__ = ["clip_in", "encode_examples", "encode_update", "mean_of", "next_clip", "server_noise"]

Int64 = NDArray[np.int64]


def clip_in(settings: SumSettings, scales: Iterable[float]) -> float:
    """The clip of a round from the scales that its message names: the task's, or where the quantile has moved it.

    Raises:
        DecodeError: there is not exactly one, or it is not what the task allows.
    """
    values = list(scales)
    if len(values) != 1 or not SMALLEST_CLIP <= values[0] <= LARGEST_CLIP:  # NaN is not
        raise DecodeError(
            f"a round of a private sum names one clip between {SMALLEST_CLIP:g} and {LARGEST_CLIP:g}, not {values[:4]}"
        )
    clip = float(values[0])
    if settings.quantile is None and not math.isclose(clip, settings.clip, rel_tol=1e-6):
        raise DecodeError(f"the round's clip is {clip:g}, this device's task has {settings.clip:g}")
    return clip


def encode_update(settings: SumSettings, update: Float32, *, clip: float, seed: bytes, noise: NoiseSource) -> Int64:
    """A device's update as its input of the sum, int64 [length].

    Args:
        settings: level ``client``.
        update: float32 [P]; one that is not finite counts as zero.
        clip: of the round.
        seed: of the round's rotation, public.
        noise: where rounding and noise come from.

    Raises:
        ConfigError: the update has another size than the one that was accounted for.
    """
    _check_size(settings, np.shape(update)[-1:])
    scaled = np.asarray(update, np.float64) / clip
    values = skellam.encode(
        scaled, clip=1.0, gamma=settings.gamma, sigma_local=settings.sigma_local, seed_rotation=seed, rng=noise
    )
    if settings.quantile is None:
        return values
    norm = float(np.linalg.norm(scaled))
    bit = skellam.noise(1, variance=settings.quantile_variance, rng=noise)
    bit += BIT * int(norm <= 1.0)  # NaN is not
    return np.concatenate([values, bit])


def encode_examples(
    settings: SumSettings, chunks: Iterable[NDArray[Any]], *, clip: float, seed: bytes, noise: NoiseSource
) -> Int64:
    """The clipped gradients of a device's examples, summed, as its input of the sum, int64 [length].

    Each gradient is clipped and rounded by itself, so that an example moves the sum by what `skellam.sensitivity` says
    and no more. A sum beyond the device's part of the ring saturates; that moves two sums closer, never apart.

    Args:
        settings: level ``example``.
        chunks: gradients, float [b, P] each, of examples that are in no other row.
        clip, seed, noise: as for `encode_update`, and what it raises.
    """
    total = np.zeros(settings.dimension, np.int64)
    for rows in chunks:
        _check_size(settings, np.shape(rows)[-1:])
        scaled = np.asarray(rows, np.float64) / clip
        total += skellam.round_examples(scaled, clip=1.0, gamma=settings.gamma, seed_rotation=seed, rng=noise)
    variance = (settings.sigma_local / settings.gamma) ** 2
    saturated = skellam.saturate(total, settings.largest_value)
    return saturated + skellam.noise(settings.dimension, variance=variance, rng=noise)


def _check_size(settings: SumSettings, shape: tuple[int, ...]) -> None:
    """A longer vector is rounded in more places, and moves the sum by more than was paid for."""
    if shape != (settings.size,):
        raise ConfigError(
            f"the model gives {shape} values, the privacy of its sum was accounted for {settings.size}: the task and "
            "the model do not belong together"
        )


def mean_of(settings: SumSettings, total: Int64, devices: int, *, clip: float, seed: bytes) -> Float32:
    """The step of the weights, float32 [P], from the sum of `devices` inputs, int64 [length], lifted around zero.

    Raises:
        DecodeError: the sum has another length, or is of nobody.
    """
    if total.shape != (settings.length,) or devices < 1:
        raise DecodeError(f"a sum of shape {total.shape} over {devices} devices came; wanted [{settings.length}]")
    values = skellam.decode(total[: settings.dimension], gamma=settings.gamma, seed_rotation=seed, size=settings.size)
    mean = values * (clip * settings.step / (devices * settings.expected_batch))
    return (-mean if settings.level == "example" else mean).astype(np.float32)


def server_noise(settings: SumSettings, devices: int, *, clip: float, noise: NoiseSource) -> NDArray[np.float64]:
    """What a trusted server adds to the mean of `devices` updates, float64 [P]: round the sum of both, once.

    Raises:
        ConfigError: the devices of this task add the noise.
    """
    if not settings.trusted_server:
        raise ConfigError("the devices add the noise of this task, not the server")
    return noise.normal(settings.size) * (settings.noise_multiplier * clip / devices)


def next_clip(settings: SumSettings, total: Int64, devices: int, *, clip: float) -> float:
    """The clip of the next round, after one with `clip` whose sum of `devices` inputs is `total`, int64 [length].

    It moves towards the quantile (Andrew et al. 2021); without one it stays.
    """
    if settings.quantile is None:
        return clip
    share = min(1.0, max(0.0, int(total[-1]) / (BIT * devices)))
    moved = clip * math.exp(-settings.quantile.rate * (share - settings.quantile.target))
    return min(LARGEST_CLIP, max(SMALLEST_CLIP, moved))
