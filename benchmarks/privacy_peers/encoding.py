"""Encoding one vector for a sum with shared noise: fedmesh, and a plain numpy peer that is neither exact nor secret."""

import math

import numpy as np
from numpy.typing import NDArray

from fedmesh.privacy import skellam
from fedmesh.privacy.noise import SystemNoise

CLIP = 1.0
GAMMA = 1e-3
SIGMA_LOCAL = 0.01
SEED = bytes(range(32))


def vector(size: int) -> NDArray[np.float32]:
    """Of norm 2, so that it is clipped."""
    values = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    return values * np.float32(2.0 / np.linalg.norm(values))


def fedmesh(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """`skellam.encode` with noise from the operating system: the exact law, by a keystream of AES."""
    return skellam.encode(
        values, clip=CLIP, gamma=GAMMA, sigma_local=SIGMA_LOCAL, seed_rotation=SEED, rng=SystemNoise()
    )


def numpy_poisson(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The same steps by numpy: a Hadamard transform by butterflies, random rounding, a difference of Poissons.

    Its Poisson sampler works in floating point and its generator can be predicted: not exact, not cryptographic, and
    its rounding is not repeated where the norm grew.
    """
    rng = np.random.default_rng(1)
    padded = np.zeros(1 << math.ceil(math.log2(len(values))))
    padded[: len(values)] = values
    padded *= np.random.default_rng(2).integers(0, 2, len(padded)) * 2.0 - 1.0
    step = 1
    while step < len(padded):
        pairs = padded.reshape(-1, 2, step)
        total = pairs[:, 0] + pairs[:, 1]
        pairs[:, 1] = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] = total
        step *= 2
    padded *= min(1.0, CLIP / float(np.linalg.norm(values))) / (math.sqrt(len(padded)) * GAMMA)
    mean = (SIGMA_LOCAL / GAMMA) ** 2 / 2
    noise = rng.poisson(mean, len(padded)) - rng.poisson(mean, len(padded))
    rounded: NDArray[np.int64] = np.floor(padded + rng.random(len(padded))).astype(np.int64)
    return rounded + noise
