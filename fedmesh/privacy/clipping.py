"""The clipped sum of per-example gradients: the one place where an example's influence is bounded."""

import torch
from torch import Tensor

__all__ = ["add_clipped"]


def add_clipped(total: Tensor, gradients: Tensor, clip: float) -> None:
    """Adds to `total` every row of `gradients`, scaled down to an L2 norm of at most `clip`.

    A row with a value that is not finite, or whose norm overflows, counts as zero: multiplied by a clip factor of zero
    it would turn the whole sum into NaN, which noise does not hide. A row's contribution depends on that row alone.

    Args:
        total: float [P], changed in place.
        gradients: float [B, P], one row per example; rows that are not finite are overwritten.
        clip: above 0.
    """
    norms = torch.linalg.vector_norm(gradients, dim=1)
    finite = torch.isfinite(norms)
    if not finite.all():
        gradients[~finite] = 0.0
        norms = torch.where(finite, norms, 0.0)
    factors = (clip / (norms + 1e-6)).clamp_(max=1.0)  # as Opacus: the norm stays below `clip` in spite of rounding
    total.addmv_(gradients.T, factors)
