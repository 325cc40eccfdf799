"""The clipped sum of per-example gradients: the one place where an example's influence is bounded."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["SAFE", "Part", "Rows", "add_clipped", "add_parts", "row_norms"]

SAFE = 1 - 2.0**-20
"""What a clip is multiplied by: the float32 norms and factors may err by less than the rest."""

_BLOCK = 1024
"""Numbers whose squares are added in float32: the sum of 20 million was off by a thousandth."""


def row_norms(rows: Tensor) -> Tensor:
    """The L2 norm of each row of float [B, n], float [B], whatever n is right to 2^-22."""
    whole = rows.shape[1] // _BLOCK * _BLOCK
    rest: Tensor = torch.linalg.vector_norm(rows[:, whole:], dim=1)
    if not whole:
        return rest
    blocks = torch.linalg.vector_norm(rows[:, :whole].reshape(len(rows), -1, _BLOCK), dim=2)
    together = torch.cat([blocks, rest.unsqueeze(1)], dim=1)
    norms: Tensor = torch.linalg.vector_norm(together, dim=1, dtype=torch.float64)
    return norms.to(rows.dtype)


class Part(Protocol):
    """Some parameters' share of the gradients of B examples, and of the sum that they are added to."""

    def norms(self) -> Sequence[Tensor]:
        """L2 norms, each float [B]; the share's norm is theirs together."""
        ...

    def clear(self, examples: Tensor) -> None:
        """Makes the gradients of `examples`, bool [B], zero."""
        ...

    def add(self, weights: Tensor) -> None:
        """Adds the gradients times `weights`, float [B], to the sum."""
        ...


class Rows:
    """Gradients that were made, one row for each example.

    Args:
        total: float [n], changed in place. rows: float [B, n].
    """

    def __init__(self, total: Tensor, rows: Tensor) -> None:
        self._total = total
        self._rows = rows

    def norms(self) -> Sequence[Tensor]:
        """See `Part`."""
        return (row_norms(self._rows),)

    def clear(self, examples: Tensor) -> None:
        """See `Part`."""
        self._rows = self._rows.masked_fill(examples.unsqueeze(1), 0.0)

    def add(self, weights: Tensor) -> None:
        """See `Part`."""
        self._total.addmv_(self._rows.T, weights)


def add_parts(parts: Sequence[Part], clip: float) -> None:
    """Adds every example's gradient to the parts' sums, scaled to an L2 norm of at most `clip` over all together.

    An example with a value that is not finite, or whose squared norm overflows, counts as zero: multiplied by a clip
    factor of zero it would turn the whole sum into NaN, which noise does not hide. What an example adds depends on it
    alone.

    Args:
        parts: of the same B examples, in the same order.
        clip: above 0.
    """
    if not parts:
        return
    norms = torch.linalg.vector_norm(torch.stack([norm for part in parts for norm in part.norms()]), dim=0)
    finite = torch.isfinite(norms)
    if not finite.all():
        norms = torch.where(finite, norms, 0.0)
        for part in parts:
            part.clear(~finite)
    weights = (SAFE * clip / (norms + 1e-6)).clamp_(max=1.0)  # Opacus has 1e-6 alone, which is lost in a large norm
    for part in parts:
        part.add(weights)


def add_clipped(totals: Sequence[Tensor], gradients: Sequence[Tensor], clip: float) -> None:
    """`add_parts` of `Rows`.

    Args:
        totals: float [n], one for each parameter, changed in place.
        gradients: float [B, n], one for each parameter, row i of all of them being example i's gradient.
        clip: above 0.
    """
    add_parts([Rows(total, rows) for total, rows in zip(totals, gradients, strict=True)], clip)
