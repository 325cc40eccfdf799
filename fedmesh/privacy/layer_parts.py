"""A layer's share of the clipped sum, made from what its calls saw, by the way that is cheapest for it."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedmesh.privacy.clipping import Part, Rows, row_norms
from fedmesh.privacy.ghost import Factors, factors, in_blocks, law, pays, weight_order

__all__ = ["Call", "layer_parts", "row_size"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer on a batch.

    Attributes:
        module: the layer. activations: its inputs, tensors [B, ...]. backprops: gradient of its output, [B, ...].
    """

    module: nn.Module
    activations: list[Any]
    backprops: Tensor


def layer_parts(
    calls: Sequence[Call], totals: Mapping[nn.Parameter, Tensor], sample: Callable[[Call], Mapping[Any, Tensor]]
) -> list[Part]:
    """The calls of one backward pass as parts of `totals`.

    Args:
        calls: in any order; a layer may be called several times.
        totals: the sum's share of each trainable parameter, of its shape; other parameters are left out.
        sample: gives a call's per-example gradients, [B, *shape] for each parameter.
    """
    parts: list[Part] = []
    rows: dict[nn.Parameter, Tensor] = {}
    by_layer = _by_layer(calls)
    for layer, mine in by_layer.items():
        if law(layer) is None or _tied(layer, by_layer):
            for call in mine:
                for parameter, made in sample(call).items():
                    if parameter in totals:
                        rows[parameter] = rows[parameter] + made if parameter in rows else made
        else:
            parts += _own_parts(layer, mine, totals)
    return parts + [Rows(totals[p].view(-1), made.reshape(len(made), -1)) for p, made in rows.items()]


def row_size(calls: Sequence[Call]) -> int:
    """How many numbers of an example's gradients are held at once, for calls as these."""
    size = 0
    by_layer = _by_layer(calls)
    for layer, mine in by_layer.items():
        if law(layer) is None or _tied(layer, by_layer) or _way(_Seen(layer, mine)) is _Made:
            size += sum(parameter.numel() for parameter in layer.parameters(recurse=False) if parameter.requires_grad)
    return size


def _by_layer(calls: Sequence[Call]) -> dict[nn.Module, list[Call]]:
    by_layer: dict[nn.Module, list[Call]] = {}
    for call in calls:
        by_layer.setdefault(call.module, []).append(call)
    return by_layer


def _tied(layer: nn.Module, layers: Mapping[nn.Module, object]) -> bool:
    """Whether a parameter is another layer's too: its gradients have to be added before the norm is taken."""
    users = Counter(parameter for other in layers for parameter in other.parameters(recurse=False))
    return any(users[parameter] > 1 for parameter in layer.parameters(recurse=False))


def _own_parts(layer: Any, calls: Sequence[Call], totals: Mapping[nn.Parameter, Tensor]) -> list[Part]:
    parts: list[Part] = []
    if layer.weight in totals:
        seen = _Seen(layer, calls)
        parts.append(_way(seen)(seen, totals[layer.weight]))
    if layer.bias is not None and layer.bias in totals:
        sums = [_over_positions(layer, call.backprops) for call in calls]
        parts.append(Rows(totals[layer.bias], sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)))
    return parts


def _over_positions(layer: nn.Module, backprops: Tensor) -> Tensor:
    """The bias's gradients, [B, O]."""
    if backprops.dim() == 2:
        return backprops
    axis = 1 if law(layer) == "convolution" else backprops.dim() - 1
    return backprops.sum([other for other in range(1, backprops.dim()) if other != axis])


class _Seen:
    """Inputs and backprops of all calls of a layer: as one call at the positions of all."""

    def __init__(self, layer: Any, calls: Sequence[Call]) -> None:
        self.layer = layer
        self.inputs = [call.activations[0] for call in calls]
        self.backprops = [call.backprops for call in calls]
        self.groups = int(layer.groups) if law(layer) == "convolution" else 1
        self.positions = sum(math.prod(one.shape[1:]) for one in self.backprops) // layer.weight.shape[0]

    def __len__(self) -> int:
        return len(self.backprops[0])

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Factors]]:
        """Factors of a few examples at a time."""
        for block in in_blocks(len(self), self.positions, self.groups * math.prod(self.layer.weight.shape[1:])):
            made = [
                factors(self.layer, x[block], backprops[block], dtype)
                for x, backprops in zip(self.inputs, self.backprops, strict=True)
            ]
            if len(made) > 1:
                made[0] = Factors(torch.cat([f.backprops for f in made], 3), torch.cat([f.columns for f in made], 2))
            yield block, made[0]

    def add(self, total: Tensor, gradient: Tensor) -> None:
        """Adds `gradient`, [G, O, J] in any shape, to the weight's total."""
        total += weight_order(self.layer, gradient)

    def clear(self, examples: Tensor) -> None:
        """Makes what `examples`, bool [B], saw zero: nothing of it is in any product."""
        self.inputs = [_cleared(x, examples) for x in self.inputs]
        self.backprops = [_cleared(one, examples) for one in self.backprops]


def _cleared(values: Tensor, examples: Tensor) -> Tensor:
    return values.masked_fill(examples.view(-1, *[1] * (values.dim() - 1)), 0.0)


class _Layer:
    """A weight's part of the sum."""

    def __init__(self, seen: _Seen, total: Tensor) -> None:
        self._seen = seen
        self._total = total

    def clear(self, examples: Tensor) -> None:
        """See `Part`."""
        self._seen.clear(examples)


class _Outer(_Layer):
    """One position: an outer product, whose norm is the product of two."""

    def norms(self) -> Sequence[Tensor]:
        """See `Part`."""
        x, backprops = self._seen.inputs[0], self._seen.backprops[0]
        # in float64: a side's squares may vanish in float32 where its product with a huge other side does not
        sides = [row_norms(side.flatten(1).double()) for side in (x, backprops)]
        return ((sides[0] * sides[1]).to(self._total.dtype),)

    def add(self, weights: Tensor) -> None:
        """See `Part`."""
        x, backprops = self._seen.inputs[0], self._seen.backprops[0]
        self._total.addmm_((backprops.flatten(1) * weights.unsqueeze(1)).T, x.flatten(1).to(backprops.dtype))


class _Ghost(_Layer):
    """Norms by Gram matrices, the sum by one product for each block: the gradients are never made."""

    def norms(self) -> Sequence[Tensor]:
        """See `Part`."""
        norms = [made.norms() for _, made in self._seen.blocks(torch.float64)]
        return (torch.cat(norms).to(self._total.dtype),)

    def add(self, weights: Tensor) -> None:
        """See `Part`."""
        total: Any = sum(made.weighted_sum(weights[block]) for block, made in self._seen.blocks(self._total.dtype))
        self._seen.add(self._total, total)


class _Made(_Layer):
    """The gradients themselves, kept from the norms to the sum, in the factors' own order."""

    def __init__(self, seen: _Seen, total: Tensor) -> None:
        super().__init__(seen, total)
        rows = total.new_empty(len(seen), total.numel())
        for block, made in seen.blocks(total.dtype):
            shape = (-1, *made.backprops.shape[1:3], made.columns.shape[3])
            torch.matmul(made.backprops, made.columns, out=rows[block].view(shape))
        self._sum = total.new_zeros(total.numel())
        self._rows = Rows(self._sum, rows)

    def norms(self) -> Sequence[Tensor]:
        """See `Part`."""
        return self._rows.norms()

    def clear(self, examples: Tensor) -> None:
        """See `Part`."""
        self._rows.clear(examples)

    def add(self, weights: Tensor) -> None:
        """See `Part`."""
        self._rows.add(weights)
        self._seen.add(self._total, self._sum)


def _way(seen: _Seen) -> type[_Outer] | type[_Ghost] | type[_Made]:
    if seen.positions == 1 and law(seen.layer) == "linear":
        return _Outer
    outputs, inputs = seen.layer.weight.shape[0] // seen.groups, math.prod(seen.layer.weight.shape[1:])
    return _Ghost if pays(seen.positions, inputs, outputs) else _Made
