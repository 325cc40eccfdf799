"""Examples -> short vectors for a linear head: extract, standardise, whiten, unit norm, one constant more.

Everything that is fitted comes from public examples. From the rounding of the standardised features on, all sums are of
integers that float64 holds exactly, so no order of summation, BLAS or batch size shows in the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, DataError
from fedmesh.features.extractors import Extract, extractor
from fedmesh.features.whitening import whiten
from fedmesh.types import Examples, Float32

__all__ = ["FINEST", "MOST_COMPONENTS", "MOST_FEATURES", "STEPS", "FeatureMap", "fit"]

MOST_FEATURES, MOST_COMPONENTS = 1 << 14, 1 << 12
STEPS = 1 << 12
"""Levels of a standard deviation that standardised features are rounded to."""
FINEST = 1 << 22
"""Largest integer of a whitening matrix: 16 * STEPS * FINEST * MOST_FEATURES is below 2^53."""

_WIDEST = 16.0  # standard deviations; what is further out is cut off
_UNIT = 1 << 20  # of a row's largest component, before its norm is taken: its squares add up to below 2^53
_CHUNK = 512  # examples: their features stay in the processor's cache
_FLOOR = 1e-2  # of the mean spread: a feature that hardly moves among the public is not blown up


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMap:
    """A frozen map from examples [N, *input_shape] to float32 [N, components + 1].

    Attributes:
        name, options: of the extractor, an entry point of the group fedmesh.features.
        input_shape: of one example.
        centre, spread: float64 [D], public mean and standard deviation of each feature.
        whitening: int32 [D, components], up to a common factor, which the unit norm takes out.
        bias: the constant that is appended.
    """

    name: str
    options: dict[str, Any]
    input_shape: tuple[int, ...]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    whitening: NDArray[np.int32]
    bias: float
    _extract: Extract = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_extract", extractor(self.name, self.input_shape, self.options))

    @property
    def components(self) -> int:
        """Length of the vectors, the constant left out."""
        return int(self.whitening.shape[1])

    def __call__(self, x: Float32) -> Float32:
        """The vectors of `x` [N, *input_shape]: components of unit norm, then the bias; each by itself, bit for bit.

        An example that is not finite, or whose features are not, has components of zero: whether a device's data is
        sound is data as well, and must not decide whether the device takes part.

        Raises:
            ConfigError: `x` has another shape.
        """
        self._check(x)
        found = np.empty((len(x), self.components + 1), np.float32)
        weights = self.whitening.astype(np.float64)
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            found[part, :-1] = self._vectors(x[part], weights)
        found[:, -1] = self.bias
        return found

    def _vectors(self, x: Float32, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sound = np.isfinite(x).reshape(len(x), -1).all(axis=1)
        if not sound.all():
            x = x.copy()
            x[~sound] = 0.0
        features = _rows_of(self.name, self._extract, x)
        sound &= np.isfinite(features).all(axis=1)
        features[~sound] = 0.0
        vectors = self._components(features, weights)
        vectors[~sound] = 0.0
        return vectors

    def _components(self, features: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        if features.shape[1] != len(self.centre):
            raise ConfigError(
                f"the features {self.name!r} are {features.shape[1]} an example here, and were {len(self.centre)} "
                "where the map was fitted: fit it again"
            )
        levels = np.rint(_standardised(features, self.centre, self.spread) * STEPS)
        mixed = levels @ weights
        largest = np.abs(mixed).max(axis=1, keepdims=True)
        _, exponent = np.frexp(largest)
        units = np.rint(np.ldexp(mixed, -exponent) * _UNIT)
        norm = np.sqrt((units * units).sum(axis=1, keepdims=True))
        unit: NDArray[np.float64] = units / np.where(norm == 0, 1.0, norm)
        return unit

    def _check(self, x: Float32) -> None:
        if x.shape[1:] != self.input_shape:
            raise ConfigError(
                f"the features {self.name!r} are of examples of shape {list(self.input_shape)}, not "
                f"{list(x.shape[1:])}: use the data that the map was fitted for"
            )


def fit(
    name: str,
    public: Examples,
    *,
    components: int,
    bias: float,
    shrinkage: float = 0.5,
    within: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> FeatureMap:
    """The map of the features `name`, fitted on public examples alone.

    Args:
        public: the only examples that any moment is taken of.
        components: length of the vectors without the constant.
        bias: the constant that is appended to a vector of norm 1.
        shrinkage, within: see `fedmesh.features.whitening.whiten`; with `within` 0 no label is looked at.

    Raises:
        ConfigError: an option is out of range, or there are too few public examples or features for `components`.
        DataError: public examples, or their features, that are not finite.
    """
    shape = tuple(public.x.shape[1:])
    extract = extractor(name, shape, options or {})
    parts = [_raw_features(name, extract, public.x[start : start + _CHUNK]) for start in range(0, len(public), _CHUNK)]
    features = np.concatenate(parts or [np.empty((0, 0))])
    count, size = features.shape
    _check_sizes(name, components, count, size)
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = spread + _FLOOR * spread.mean()
    if not spread.all():
        raise ConfigError(f"the public examples all have the same features {name!r}: give it other public data")
    rows = _standardised(features, centre, spread)
    whitening = whiten(rows, public.y, components=components, shrinkage=shrinkage, within=within)
    levels = np.rint(whitening * (FINEST / np.abs(whitening).max())).astype(np.int32)
    return FeatureMap(name, dict(options or {}), shape, centre, spread, levels, float(bias))


def _raw_features(name: str, extract: Extract, x: Float32) -> NDArray[np.float64]:
    """As `_rows_of`. Raises: DataError: examples or features are not finite, or not a row for each example."""
    if not np.isfinite(x).all():  # an extractor need not know what to do with them
        raise DataError("a public example has values that are not finite: leave it out, or mend the data")
    features = _rows_of(name, extract, x)
    if not np.isfinite(features).all():
        raise DataError(f"the features {name!r} of an example are not finite: scale the data to a few units")
    return features


def _rows_of(name: str, extract: Extract, x: Float32) -> NDArray[np.float64]:
    """What `extract` finds in `x`, [N, D], a new array. Raises: DataError: it is not a row for each example."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is looked for afterwards
        features = np.array(extract(x), np.float64)
    if features.ndim != 2 or len(features) != len(x):
        raise DataError(f"the features {name!r} of {len(x)} examples have shape {features.shape}, wanted one row each")
    return features


def _standardised(
    features: NDArray[np.float64], centre: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The features in public standard deviations, cut off at 16 of them."""
    return np.clip((features - centre) / spread, -_WIDEST, _WIDEST)


def _check_sizes(name: str, components: int, count: int, size: int) -> None:
    if count < 2:
        raise ConfigError(f"{count} public examples tell no moments: raise data.public_fraction or data.public_ids")
    if not 1 <= size <= MOST_FEATURES:
        raise ConfigError(f"the features {name!r} are {size} an example, at most {MOST_FEATURES} are handled")
    most = min(size, count - 1, MOST_COMPONENTS)
    if not 1 <= components <= most:
        raise ConfigError(
            f"features.components is {components}; {count} public examples with {size} features {name!r} each give at "
            f"most {most}: lower it, or raise data.public_fraction"
        )
