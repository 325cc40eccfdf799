"""Kernel, stride and padding as plain tuples, and the refusal of what int8 kernels do not do."""

from typing import Any, TypedDict

from torch import nn

from fedmesh.errors import UnsupportedLayerError
from fedmesh.quantization.layers import AveragePool, GlobalAveragePool
from fedmesh.quantization.max_pool import MaxPool2x2
from fedmesh.quantization.steps import Step

__all__ = ["Geometry", "convolution_geometry", "pool_module"]


class Geometry(TypedDict):
    """Arguments of a quantized convolution, one number for each spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def convolution_geometry(target: str, module: nn.Conv1d | nn.Conv2d) -> Geometry:
    """The geometry of `module`.

    Raises:
        UnsupportedLayerError: padding that is neither zeros nor the same on both sides.
    """
    if module.padding_mode != "zeros":
        raise UnsupportedLayerError(
            f"the convolution {target!r} pads with {module.padding_mode!r}: int8 convolutions pad with 'zeros'"
        )
    padding = module.padding
    if padding == "valid":
        padding = (0,) * len(module.kernel_size)
    elif padding == "same":
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if any(r % 2 for r in reach):
            raise UnsupportedLayerError(
                f"the convolution {target!r} needs uneven 'same' padding: use an odd kernel, or padding as numbers"
            )
        padding = tuple(r // 2 for r in reach)
    assert isinstance(padding, tuple)
    return {"stride": module.stride, "padding": padding, "dilation": module.dilation, "groups": module.groups}


def pool_module(step: Step, before: tuple[int, ...] | None) -> nn.Module:
    """The pooling module of a step, with its arguments checked and spelled out.

    Args:
        before: shape of the step's input; needed by average and adaptive pools.

    Raises:
        UnsupportedLayerError: a pool with ceil_mode, indices, padding of an average, or uneven adaptive windows.
    """
    module = step.module
    where = f"the pool {step.target or step.name!r}"
    rank = len(step.shape) - 2
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        if module.ceil_mode or module.return_indices:
            raise UnsupportedLayerError(f"{where} uses ceil_mode or return_indices: pad the input, and leave them out")
        return _max_pool(module, rank)
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d):
        divisor = getattr(module, "divisor_override", None)
        if module.ceil_mode or any(_each(module.padding, rank)) or divisor is not None:
            raise UnsupportedLayerError(f"{where} uses ceil_mode, padding or divisor_override: use plain windows")
        return AveragePool(_each(module.kernel_size, rank), _each(module.stride, rank))
    if step.kind == "position-mean":
        return GlobalAveragePool()
    assert before is not None
    sizes = list(zip(before[2:], step.shape[2:], strict=True))
    if all(after == 1 for _, after in sizes):
        return GlobalAveragePool()
    if any(size % after for size, after in sizes):
        raise UnsupportedLayerError(
            f"{where} maps {before[2:]} to {step.shape[2:]} with uneven windows: choose sizes that divide"
        )
    windows = tuple(size // after for size, after in sizes)
    return AveragePool(windows, windows)


def _max_pool(module: nn.MaxPool1d | nn.MaxPool2d, rank: int) -> nn.Module:
    arguments = [_each(value, rank) for value in (module.kernel_size, module.stride, module.padding, module.dilation)]
    if arguments == [(2, 2), (2, 2), (0, 0), (1, 1)]:
        return MaxPool2x2()
    layer: Any = nn.MaxPool1d if rank == 1 else nn.MaxPool2d
    pool: nn.Module = layer(*arguments)
    return pool


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * rank
