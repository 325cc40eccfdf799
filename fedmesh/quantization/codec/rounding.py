"""Unbiased stochastic rounding to integer codes, with saturation.

``E[code] == value / scale`` wherever the value is representable: a value between two codes goes to the upper one with
probability equal to its distance from the lower one (Gupta et al. 2015). The uniforms have 24 bits, so probabilities
are exact to 2^-24. The randomness has to be independent of the data, not secret: rounding is no privacy mechanism.
"""

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import RoundError
from fedmesh.types import Float32

__all__ = ["require_finite", "round_stochastically"]


def round_stochastically(values: Float32, largest: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Codes for `values`, given in units of the scale; int16, same shape, clipped to +-`largest` first.

    Integers stay what they are; so zero stays zero.
    """
    clipped = np.clip(values, -np.float32(largest), np.float32(largest))
    lower = np.floor(clipped)
    clipped -= lower  # exact: both are float32 of the same binade or smaller
    up = rng.random(values.shape, dtype=np.float32) < clipped
    codes = lower.astype(np.int16)
    codes += up
    return codes


def require_finite(vector: Float32) -> None:
    """Refuses NaN and infinity before they can be rounded to some code.

    Raises:
        RoundError: says how many values are not finite.
    """
    # A sum of products is not finite as soon as one value is not: one pass, nothing allocated. It may also overflow
    # for finite values, so only the slow count decides.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(np.dot(vector, vector))
    if suspicious and (bad := int(np.count_nonzero(~np.isfinite(vector)))):
        raise RoundError(
            f"{bad} of {vector.size} values of the delta are NaN or infinite: training diverged on this device; "
            "lower client.learning_rate"
        )
