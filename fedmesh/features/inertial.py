"""Hand-made features of inertial windows, in time and frequency (after Anguita et al. 2013, ESANN).

Of 23 signals (the nine channels, their derivatives, magnitudes, and what is along and across gravity): moments,
quantiles, amplitudes in bands of frequency, correlations, and where gravity points. Amplitudes are features by
their roots or logarithms, so that no vigorous person dominates the moments of a still one.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.features.extractors import Extract
from fedmesh.types import Float32

__all__ = ["inertial"]

_CHANNELS, _SAMPLES = 9, 128
_QUIET = 0.02
"""Added to an amplitude under a logarithm: about what the sensors' noise is worth."""
_STILL = 0.08
"""Added to the standard deviation that a signal is divided by: noise alone is no shape."""
_RANKS = (1, 12, 32, 64, 96, 115, 126)  # of the 128 sorted samples
_BANDS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 27, 36, 48, 64)  # edges, in periods a window
_AXES = ((0, 1), (0, 2), (1, 2))
_PAIRS = (
    *((base + i, base + j) for base in (0, 3, 6, 9, 12) for i, j in _AXES),
    (16, 17), (20, 22), (20, 21), (3, 6), (4, 7), (5, 8), (3, 8), (4, 6), (5, 7),
)  # fmt: skip

Signals = NDArray[np.float64]


def inertial(input_shape: tuple[int, ...]) -> Extract:
    """The features of windows [9, 128]: total and body acceleration and angular velocity, of three axes each.

    Total acceleration in half g, body acceleration in quarter g: as the data set `har` gives them.

    Raises:
        ConfigError: the examples have another shape.
    """
    if input_shape != (_CHANNELS, _SAMPLES):
        raise ConfigError(
            f"inertial takes windows of shape [{_CHANNELS}, {_SAMPLES}], not {list(input_shape)}: choose other features"
        )
    return _features


def _features(x: Float32) -> Float32:
    windows = x.astype(np.float64)
    gravity = windows[:, 0:3] - windows[:, 3:6] / 2  # in the unit of total acceleration
    signals = _signals(windows, gravity)
    means = signals.mean(axis=2)
    centred = signals - means[:, :, None]
    spread = np.sqrt((centred * centred).mean(axis=2))
    shapes = centred / (spread + _STILL)[:, :, None]
    parts = [means, *_moments(signals, centred, spread, shapes), _quantiles(centred), _bands(centred)]
    parts += [_correlations(shapes), _direction(gravity)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _signals(windows: Signals, gravity: Signals) -> Signals:
    """The 23 signals [N, 23, T]."""
    body, turning = windows[:, 3:6], windows[:, 6:9]
    jerk, twist = (np.diff(part, axis=2, append=part[:, :, -1:]) for part in (body, turning))
    down = gravity / (_length(gravity) + 1e-6)
    upward = _along(body, down)
    level = np.sqrt(np.maximum(_length(body) ** 2 - upward**2, 0))
    lengths = [_length(part) for part in (windows[:, 0:3], body, turning, jerk, twist)]
    return np.concatenate([windows, jerk, twist, *lengths, upward, level, _along(turning, down)], axis=1)


def _length(vectors: Signals) -> Signals:
    return np.sqrt(_along(vectors, vectors))


def _along(vectors: Signals, others: Signals) -> Signals:
    """Scalar products over the three axes, [N, 1, T]."""
    products = vectors * others
    return (products[:, 0] + products[:, 1] + products[:, 2])[:, None]


def _moments(signals: Signals, centred: Signals, spread: Signals, shapes: Signals) -> list[Signals]:
    """Amplitudes, roughness, skewness and kurtosis, [N, 23] each."""
    roughness = np.abs(np.diff(signals, axis=2)).mean(axis=2)
    squares = shapes * shapes
    return [
        np.log(spread + _QUIET),
        np.log(np.abs(centred).mean(axis=2) + _QUIET),
        np.log(roughness + _QUIET),
        np.cbrt((squares * shapes).mean(axis=2)),
        np.sqrt((squares * squares).mean(axis=2)),
    ]


def _quantiles(centred: Signals) -> Signals:
    ranked = np.sort(centred, axis=2)[:, :, list(_RANKS)]
    return (np.sign(ranked) * np.sqrt(np.abs(ranked))).reshape(len(centred), -1)


def _bands(centred: Signals) -> Signals:
    """Roots of the amplitudes in bands of frequency, under a Hann window (periodic, that is: of T + 1 points)."""
    spectrum = np.fft.rfft(centred * np.hanning(_SAMPLES + 1)[:-1], axis=2)
    power = spectrum.real**2 + spectrum.imag**2
    bands = [power[:, :, low:high].sum(axis=2) for low, high in pairwise(_BANDS)]
    roots: Signals = np.sqrt(np.sqrt(np.stack(bands, axis=2)))
    return roots.reshape(len(centred), -1)


def _correlations(shapes: Signals) -> Signals:
    return np.stack([(shapes[:, i] * shapes[:, j]).mean(axis=1) for i, j in _PAIRS], axis=1)


def _direction(gravity: Signals) -> Signals:
    """Mean direction of gravity, the products of its parts, and its turn from the window's first to its last eighth."""
    mean = gravity.mean(axis=2)
    squares = mean * mean
    unit = mean / (np.sqrt(squares[:, :1] + squares[:, 1:2] + squares[:, 2:]) + 1e-6)
    ends = gravity[:, :, -16:].mean(axis=2) - gravity[:, :, :16].mean(axis=2)
    return np.concatenate([unit, unit * unit, unit[:, [0, 0, 1]] * unit[:, [1, 2, 2]], ends], axis=1)
