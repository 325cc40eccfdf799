"""The clipped sum of per-example gradients: the one place where an example's influence is bounded."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["add_clipped"]


def add_clipped(totals: Sequence[Tensor], gradients: Sequence[Tensor], clip: float) -> None:
    """Adds every example's gradient to `totals`, scaled down to an L2 norm of at most `clip` over all parts together.

    An example with a value that is not finite, or whose norm overflows, counts as zero: multiplied by a clip factor of
    zero it would turn the whole sum into NaN, which noise does not hide. What an example adds depends on it alone.

    Args:
        totals: float [n], one for each parameter, changed in place.
        gradients: float [B, n], one for each parameter, row i of all of them being example i's gradient; rows that are
            not finite are overwritten.
        clip: above 0.
    """
    if not gradients:
        return
    norms = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients]), dim=0)
    finite = torch.isfinite(norms)
    if not finite.all():
        norms = torch.where(finite, norms, 0.0)
        for part in gradients:
            part[~finite] = 0.0
    factors = (clip / (norms + 1e-6)).clamp_(max=1.0)  # as Opacus: the norm stays below `clip` in spite of rounding
    for total, part in zip(totals, gradients, strict=True):
        total.addmv_(part.T, factors)
