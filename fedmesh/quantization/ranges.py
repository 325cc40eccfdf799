"""Activation ranges: calibrated once on public data, then frozen constants that every device is sent.

A range is a function of the public data and the public start only; re-calibrating on a device's data would leak it and
gains nothing measurable. The scale is the candidate with the least squared error, not the one that covers the largest
outlier (Krishnamoorthi 2018).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedmesh.errors import ConfigError, DataError
from fedmesh.quantization.grids import LEVELS, ActivationGrid, power_of_two_at_least
from fedmesh.quantization.layers import Quantizer
from fedmesh.quantization.model import float_function
from fedmesh.quantization.rounding_ops import quantize_activation

__all__ = ["calibrate", "load_ranges", "ranges_of"]

Ranges = dict[str, tuple[float, int]]

_POWER_OF_TWO_FACTORS = (1.0, 0.5, 0.25)
_FREE_FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_LARGEST = 2.0**40
_SCALE_OF_SILENCE = 2.0**-8  # of an activation that was 0 throughout: covers 0..1


@dataclass(slots=True)
class _Observed:
    """What went through one quantizer: its extremes, and the squared error of each candidate grid."""

    quantizer: Quantizer
    low: float = 0.0
    high: float = 0.0
    candidates: list[ActivationGrid] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def ranges_of(model: nn.Module) -> Ranges:
    """Quantizer -> (scale, zero point), in the order of the graph.

    Raises:
        ConfigError: the model is not calibrated.
    """
    return {quantizer.grid.name: (quantizer.grid.step, quantizer.grid.zero_point) for quantizer in _quantizers(model)}


def load_ranges(model: nn.Module, ranges: Mapping[str, tuple[float, int]]) -> None:
    """Freezes the model's grids at `ranges`; bias grids follow.

    Raises:
        ConfigError: names are not the model's quantizers, or a value is no grid of this model.
    """
    quantizers = {quantizer.grid.name: quantizer for quantizer in _quantizers(model)}
    if set(ranges) != set(quantizers):
        missing, unknown = sorted(set(quantizers) - set(ranges)), sorted(set(ranges) - set(quantizers))
        raise ConfigError(f"the ranges are those of another model: missing {missing}, unknown {unknown}")
    for name, (scale, zero_point) in ranges.items():
        quantizers[name].grid.set(scale, zero_point)


def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> Ranges:
    """Sets and freezes the activation ranges of `model` from public inputs, and returns them.

    Two passes of the float model: extremes first, then the squared error of a few scales below.

    Args:
        batches: inputs [B, ...] float32; they are kept in memory until the ranges are found. A few hundred examples do.

    Raises:
        ConfigError: there is no batch. DataError: a value is not finite.
    """
    kept = list(batches)
    if not any(len(batch) for batch in kept):
        raise ConfigError("calibration got no examples: give it a few hundred public ones")
    if not all(bool(torch.isfinite(batch).all()) for batch in kept):
        raise DataError("the calibration data hold values that are not finite: clean them first")
    observed = [_Observed(quantizer) for quantizer in _quantizers(model)]
    _observe(model, kept, observed, _extremes)
    for one in observed:
        one.candidates = _candidates(one)
        one.errors = [0.0] * len(one.candidates)
    _observe(model, kept, observed, _squared_errors)
    for one in observed:
        best = one.candidates[one.errors.index(min(one.errors))]
        one.quantizer.grid.set(best.step, best.zero_point)
    return ranges_of(model)


def _quantizers(model: nn.Module) -> list[Quantizer]:
    return [module for module in model.modules() if isinstance(module, Quantizer)]


def _observe(
    model: nn.Module, batches: list[Tensor], observed: list[_Observed], look: Callable[[_Observed, Tensor], None]
) -> None:
    def watch(one: _Observed) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            look(one, one.quantizer.rectify(inputs[0]))

        return hook

    handles = [one.quantizer.register_forward_pre_hook(watch(one)) for one in observed]
    try:
        with torch.no_grad(), float_function(model):
            for batch in batches:
                if len(batch):
                    model(batch)
    finally:
        for handle in handles:
            handle.remove()


def _extremes(one: _Observed, x: Tensor) -> None:
    low, high = (bound.item() for bound in torch.aminmax(x))
    if not (low >= -_LARGEST and high <= _LARGEST):  # NaN included
        raise DataError(
            f"the activation {one.quantizer.grid.name!r} reaches {low:g}..{high:g}: scale the inputs to about -1..1; "
            "with inputs of that size already, the float model has diverged"
        )
    one.low, one.high = min(one.low, low), max(one.high, high)


def _squared_errors(one: _Observed, x: Tensor) -> None:
    for index, grid in enumerate(one.candidates):
        error = quantize_activation(x, grid.step, grid.low, grid.high, scales=grid.scales) - x
        one.errors[index] += float(error.square_().sum(dtype=torch.float64))


def _candidates(one: _Observed) -> list[ActivationGrid]:
    span = one.high - one.low
    exact = one.quantizer.grid.scales == "power-of-two"
    scale = span / LEVELS if span > 0 else _SCALE_OF_SILENCE
    if exact:
        scale = power_of_two_at_least(scale)
    found = []
    for factor in _POWER_OF_TWO_FACTORS if exact else _FREE_FACTORS:
        for zero_point in _zero_points(one.low, one.high, scale * factor, even=exact):
            grid = ActivationGrid(one.quantizer.grid.name, one.quantizer.grid.scales, one.quantizer.grid.signed)
            grid.set(scale * factor, zero_point)
            found.append(grid)
    return found


def _zero_points(low: float, high: float, scale: float, *, even: bool) -> list[int]:
    """Zero points worth trying: low..high in the middle of the levels, or at either end where they do not cover it."""
    if low >= 0:
        return [0]
    slack = LEVELS - (high - low) / scale
    levels = [-low / scale + slack / 2]
    if slack < 0:
        levels += [-low / scale, -low / scale + slack]
    points = (2 * round(level / 2) if even else round(level) for level in levels)
    return list(dict.fromkeys(min(max(point, 0), LEVELS - 1) for point in points))
