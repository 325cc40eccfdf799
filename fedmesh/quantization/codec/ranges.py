"""Delta ranges from public state: the model's weights without DP, the hyper-parameters with it."""

from collections.abc import Callable

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.types import Arrays, Float32, Layout

__all__ = ["RangePolicy", "constant_ranges", "dp_ranges", "public_ranges", "relative_ranges"]

RangePolicy = Callable[[Arrays], Float32]
"""Global weights -> largest reported change of each tensor, float32 [tensors]. A function of public state only."""


def constant_ranges(ranges: Float32) -> RangePolicy:
    """The same ranges in every round: under DP, where they follow from the mechanism's parameters."""
    fixed = np.array(ranges, dtype=np.float32)
    return lambda weights: fixed  # noqa: ARG005 - the policy's signature


def relative_ranges(fraction: float) -> RangePolicy:
    """A share of each tensor's largest magnitude in the global weights: without DP."""
    return lambda weights: public_ranges(weights, fraction)


def public_ranges(weights: Arrays, fraction: float) -> Float32:
    """Ranges for federations without DP: `fraction` of each tensor's largest magnitude; float32 [tensors].

    A tensor much smaller than the others (a bias that starts at zero) counts as a tenth of the median tensor, so that
    it can move at all. The weights are the global model's, known to all: nothing here depends on a device's data.

    Raises:
        ConfigError: `fraction` is not positive, or a weight is not finite.
    """
    if not 0 < fraction < np.inf:
        raise ConfigError(f"delta.range_fraction is {fraction!r}, wanted a positive number")
    magnitudes = np.array([np.max(np.abs(w), initial=0.0) for w in weights.values()], dtype=np.float32)
    if not np.isfinite(magnitudes).all():
        bad = [name for name, m in zip(weights, magnitudes, strict=True) if not np.isfinite(m)]
        raise ConfigError(f"the model's {', '.join(bad)} holds NaN or infinity: no delta ranges can be derived from it")
    floor = max(0.1 * float(np.median(magnitudes)) if len(magnitudes) else 0.0, 1e-3)
    return np.float32(fraction) * np.maximum(magnitudes, np.float32(floor))


def dp_ranges(
    layout: Layout, *, learning_rate: float, clip: float, noise_multiplier: float, expected_batch: float, steps: int
) -> Float32:
    """Ranges for DP-SGD, from its public hyper-parameters alone; float32 [tensors].

    A round moves a weight by the sum over `steps` of learning_rate * (clipped gradient + noise) / expected_batch:

    - noise: Gaussian, standard deviation learning_rate * noise_multiplier * clip * sqrt(steps) / expected_batch; six
      of them, so that saturation is rarer than 1e-8 a weight;
    - signal: a mean clipped gradient has norm `clip` or less: a weight moves by learning_rate * clip * steps or less.
      In a tensor of n weights the norm is spread: eight times the root mean square, when that is less, keeps the grid
      fine. Values beyond saturate, which costs a bias but never privacy: the ranges do not depend on the data.

    With momentum m, pass learning_rate / (1 - m).

    Raises:
        ConfigError: a parameter is out of range.
    """
    given = {"learning_rate": learning_rate, "clip": clip, "expected_batch": expected_batch, "steps": float(steps)}
    for name, value in given.items():
        if not 0 < value < np.inf:
            raise ConfigError(f"{name} is {value!r}: the delta ranges under DP need a positive number")
    if not 0 <= noise_multiplier < np.inf:
        raise ConfigError(f"noise_multiplier is {noise_multiplier!r}, wanted a number that is not negative")
    noise = 6 * learning_rate * noise_multiplier * clip * float(np.sqrt(steps)) / expected_batch
    bound = learning_rate * clip * steps
    spread = [min(1.0, 8 / float(np.sqrt(max(size, 1)))) for size in layout.sizes]
    return np.array([bound * share + noise for share in spread], dtype=np.float32)
