"""The distributed Skellam mechanism: vectors into a ring of integers, with noise that adds up, and their sum back.

Rotate (public seed), clip to an L2 norm, divide by the grid's step gamma, round at random under a norm bound, add
exact Skellam noise (Agarwal et al. 2021, arXiv 2110.04995; rounding of Kairouz et al. 2021, arXiv 2102.06387). The
caller takes the integers mod 2^bits, sums them securely and lifts the sum around zero; `decode` undoes the linear part:
``decode(a + b) == decode(a) + decode(b)`` but for float rounding, and ``decode(encode(x))`` is x, clipped, with noise
and with rounding whose mean is about 0.

Guarantees, whatever the input: the length of the output depends on the parameters alone, and before noise one vector
moves a sum by at most `sensitivity(...)` in L2 and L1. Does not guarantee that other devices add their noise, nor
constant time: how often a rounding is repeated depends on the data.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.privacy.conditional_rounding import round_rows
from fedmesh.privacy.noise import Randomness
from fedmesh.privacy.rotation import Seed, dimension, rotate, rotation_seed, unrotate
from fedmesh.privacy.sensitivity import Sensitivity, granularity, sensitivity
from fedmesh.privacy.skellam_sampler import sample

__all__ = [
    "Sensitivity",
    "decode",
    "dimension",
    "encode",
    "granularity",
    "noise",
    "rotation_seed",
    "round_examples",
    "saturate",
    "sensitivity",
]

Int64 = NDArray[np.int64]

_BLOCK = 1 << 18
"""Coordinates of several rows that are rotated at a time: a few MiB."""


def encode(
    delta: NDArray[np.floating], *, clip: float, gamma: float, sigma_local: float, seed_rotation: Seed, rng: Randomness
) -> Int64:
    """One vector as integers with noise, int64 [d], d = ``dimension(P)``.

    Args:
        delta: float [P]; one with a value that is not finite counts as zero.
        clip: largest L2 norm; longer vectors are scaled down to it.
        gamma: step of the grid, in the unit of `delta`.
        sigma_local: standard deviation of this device's noise, in the unit of `delta`; 0: none. In steps of the grid,
            the noise has exactly the variance of the float ``(sigma_local / gamma) ** 2``.
        seed_rotation: public, the same for all vectors of a sum.
        rng: of rounding and noise. A numpy generator is accepted, for tests: it protects nobody.

    Raises:
        ConfigError: `delta` is not a vector, or a parameter is out of range.
    """
    if np.ndim(delta) != 1:
        raise ConfigError(f"one vector is encoded at a time, not an array of shape {np.shape(delta)}")
    if not (math.isfinite(sigma_local) and sigma_local >= 0):
        raise ConfigError(f"discrete noise: sigma_local is {sigma_local}, it must be a finite number, 0 or more")
    rows = np.asarray(delta)[np.newaxis]
    bound = sensitivity(clip, gamma, dimension(rows.shape[1]))
    values: Int64 = _rounded(rows, bound, seed_rotation, rng, clip=clip, gamma=gamma)[0]
    if sigma_local > 0:
        values += sample(len(values), (sigma_local / gamma) ** 2, rng)
    return values


def decode(total: Int64, *, gamma: float, seed_rotation: Seed, size: int) -> NDArray[np.float64]:
    """The sum of the vectors that `encode` made integers of, float64 [size].

    Args:
        total: int64 [d], their sum, lifted around zero.
        gamma, seed_rotation: as they were encoded with.
        size: values before padding.

    Raises:
        ConfigError: the sum has another length than vectors of `size` values give.
    """
    if np.shape(total) != (dimension(size),):
        raise ConfigError(f"a sum of shape {np.shape(total)} came, {size} values make one of [{dimension(size)}]")
    return unrotate(np.asarray(total), seed_rotation)[:size] * gamma


def round_examples(
    rows: NDArray[np.floating], *, clip: float, gamma: float, seed_rotation: Seed, rng: Randomness
) -> Int64:
    """The sum of many vectors as integers without noise, int64 [d]; each is clipped and rounded by itself.

    Adding or removing one row moves the result by at most ``sensitivity(clip, gamma, d)``.

    Args:
        rows: float [N, P], one vector each, N may be 0; a row with a value that is not finite counts as zero.
        clip, gamma, seed_rotation, rng: as for `encode`.

    Raises:
        ConfigError: `rows` is not a matrix, or a parameter is out of range.
    """
    if np.ndim(rows) != 2:
        raise ConfigError(f"the vectors of examples are the rows of a matrix, not an array of shape {np.shape(rows)}")
    rows = np.asarray(rows)
    length = dimension(rows.shape[1])
    bound = sensitivity(clip, gamma, length)
    total = np.zeros(length, np.int64)
    step = max(1, _BLOCK // length)
    for start in range(0, len(rows), step):
        total += _rounded(rows[start : start + step], bound, seed_rotation, rng, clip=clip, gamma=gamma).sum(axis=0)
    return total


def noise(d: int, *, variance: float, rng: Randomness) -> Int64:
    """Exact Skellam noise, int64 [d].

    Args:
        d: coordinates.
        variance: in steps of the grid squared, treated as exactly the rational number that the float is; 0: no noise.
        rng: as for `encode`.

    Raises:
        ConfigError: the variance is negative, or beyond what the sampler has tables for.
    """
    return np.zeros(d, np.int64) if variance == 0 else sample(d, variance, rng)


def saturate(values: Int64, limit: int) -> Int64:
    """Each coordinate brought into -limit .. limit, int64 [d].

    It moves no two vectors apart, in no coordinate, so that sensitivities stay.

    Raises:
        ConfigError: the limit is below 0.
    """
    if limit < 0:
        raise ConfigError(f"values cannot be kept within -{limit}..{limit}: the limit must be 0 or more")
    return np.clip(values, -limit, limit)


def _rounded(
    rows: NDArray[np.floating], bound: Sensitivity, seed: Seed, rng: Randomness, *, clip: float, gamma: float
) -> Int64:
    """Each row clipped, rotated and rounded under `bound`, int64 [N, d].

    A row is divided by its largest magnitude first, so that its norm neither overflows nor vanishes.
    """
    peaks = np.abs(rows).max(axis=1).astype(np.float64)
    broken = ~np.isfinite(peaks)
    if broken.any():
        rows = np.where(broken[:, np.newaxis], 0.0, rows)
        peaks[broken] = 0.0
    peaks[peaks == 0.0] = 1.0
    norms = np.array([_norm(row, peak) for row, peak in zip(rows, peaks, strict=True)])
    grid = rotate(rows, (peaks, np.minimum(peaks, clip / norms) / gamma), seed)
    return round_rows(grid, square_limit=bound.square_limit, rng=rng)


def _norm(row: NDArray[np.floating], peak: float) -> float:
    """The L2 norm of a row over its largest magnitude; 1 for a zero row, which no clip can change."""
    scaled = row.astype(np.float64) / peak
    return math.sqrt(float(np.dot(scaled, scaled))) or 1.0
