"""Whitening by public moments: what varies much, or varies within a class, counts no more than what varies little.

Gradient descent in few noisy steps needs a loss that is curved alike in all directions. Variation within a class, from
one person to the next above all, is what a head on unseen people must not lean on (within-class covariance
normalisation: Hatch, Kajarekar and Stolcke 2006).
"""

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError

__all__ = ["whiten"]

Matrix = NDArray[np.float64]

_TINY = 1e-9
"""Least shrinkage: an axis that nothing varies along has no variance to divide by."""


def whiten(rows: Matrix, labels: NDArray[np.int64], *, components: int, shrinkage: float, within: float) -> Matrix:
    """The matrix [D, components] that whitens standardised features, leading directions first.

    The covariance that it brings to one is ``within`` parts of the one within classes and ``1 - within`` of the whole,
    plus `shrinkage` times its mean variance on every axis: axes that the public examples hardly span are not blown up.
    Kept are the directions in which the whole varies most after that.

    Args:
        rows: [N, D], of mean 0. labels: [N]; not looked at where `within` is 0.

    Raises:
        ConfigError: `shrinkage` or `within` is out of range.
    """
    if not (0 <= within <= 1 and 0 <= shrinkage < np.inf):
        raise ConfigError(f"within is {within!r}, wanted 0 to 1, and shrinkage {shrinkage!r}, wanted 0 or more")
    whole = _covariance(rows)
    covariance = whole if within == 0 else within * _within(rows, labels) + (1 - within) * whole
    variances, axes = _principal(covariance)
    variances = np.maximum(variances, 0) + max(shrinkage, _TINY) * np.trace(covariance) / len(covariance)
    flat = axes / np.sqrt(variances)
    _, directions = _principal(flat.T @ whole @ flat)
    found = flat @ directions[:, :components]
    whitening: Matrix = found * np.where(found.sum(axis=0) < 0, -1.0, 1.0)  # a direction has no sign of its own
    return whitening


def _covariance(rows: Matrix) -> Matrix:
    covariance: Matrix = rows.T @ rows / len(rows)
    return covariance


def _within(rows: Matrix, labels: NDArray[np.int64]) -> Matrix:
    residuals = rows.copy()
    for label in np.unique(labels):
        members = labels == label
        residuals[members] -= rows[members].mean(axis=0)
    return _covariance(residuals)


def _principal(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues, descending, and the vectors as columns."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return values[::-1], vectors[:, ::-1]
