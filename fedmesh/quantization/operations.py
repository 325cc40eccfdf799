"""The operations that have an int8 kernel, the many ways torch spells them, and what to use instead of the others."""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from fedmesh.errors import UnsupportedLayerError

__all__ = ["MODULES", "as_module", "hint"]

MODULES: dict[type[nn.Module], str] = {
    nn.Conv1d: "convolution",
    nn.Conv2d: "convolution",
    nn.Linear: "linear",
    nn.BatchNorm1d: "batch-norm",
    nn.BatchNorm2d: "batch-norm",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.MaxPool1d: "max-pool",
    nn.MaxPool2d: "max-pool",
    nn.AvgPool1d: "average-pool",
    nn.AvgPool2d: "average-pool",
    nn.AdaptiveAvgPool1d: "adaptive-pool",
    nn.AdaptiveAvgPool2d: "adaptive-pool",
    nn.Flatten: "flatten",
    nn.Dropout: "identity",
    nn.Dropout1d: "identity",
    nn.Dropout2d: "identity",
    nn.Identity: "identity",
}
"""Layer type -> kind of step. Exact types: a subclass may compute something else."""

_INSTEAD = (
    (
        (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d),
        "BatchNorm, which folds into the layer before",
    ),
    ((nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Tanh, nn.Sigmoid), "ReLU or ReLU6"),
    ((nn.Softmax, nn.LogSoftmax), "nothing: the model returns logits, the loss and the reader apply softmax"),
    ((nn.RNNBase, nn.RNNCellBase), "Conv1d layers: ONNX Runtime has no static int8 kernel for recurrent layers"),
    ((nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.Embedding), "convolutions and linear layers"),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Conv3d), "Conv1d, Conv2d or Linear"),
)


def hint(target: str, module: nn.Module) -> str:
    """Says that `module` has no int8 kernel, and what to use."""
    instead = next((text for types, text in _INSTEAD if isinstance(module, types)), None)
    if instead is None:
        instead = ", ".join(sorted(t.__name__ for t in MODULES)) + ", + and view"
    return f"the layer {target!r} ({type(module).__name__}) has no int8 kernel: use {instead}"


def _max_pool(rank: int) -> Callable[..., nn.Module]:
    def build(  # noqa: PLR0917 - the signature of torch.nn.functional.max_pool2d
        _x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> nn.Module:
        layer = nn.MaxPool1d if rank == 1 else nn.MaxPool2d
        return layer(kernel_size, stride or None, padding, dilation, return_indices, ceil_mode)

    return build


def _average_pool(rank: int) -> Callable[..., nn.Module]:
    def build(_x: Any, kernel_size: Any, stride: Any = None, *rest: Any, **named: Any) -> nn.Module:
        layer: Callable[..., nn.Module] = nn.AvgPool1d if rank == 1 else nn.AvgPool2d
        return layer(kernel_size, stride or None, *rest, **named)

    return build


def _mean(x: Any, dim: Any = (), keepdim: bool = False, **named: Any) -> nn.Module:
    del x
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    if named or not axes:
        raise UnsupportedLayerError("mean() over all axes has no int8 kernel: average over the positions, dim=(2, 3)")
    return _MeanOver(axes, keepdim=keepdim)


class _MeanOver(nn.Module):
    """Marks a mean over some axes, until its input's shape says whether these are the positions."""

    def __init__(self, axes: tuple[int, ...], *, keepdim: bool) -> None:
        super().__init__()
        self.axes, self.keepdim = axes, keepdim


class PositionMean(nn.Module):
    """Mean over all positions; `keepdim` says whether they stay as axes of length 1."""

    def __init__(self, *, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim


MODULES[PositionMean] = "position-mean"


def _flatten(_x: Any, start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


def _relu(_x: Any, inplace: bool = False) -> nn.Module:
    del inplace
    return nn.ReLU()


def _relu6(_x: Any, inplace: bool = False) -> nn.Module:
    del inplace
    return nn.ReLU6()


def _identity(*_args: Any, **_named: Any) -> nn.Module:
    return nn.Identity()


_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    F.relu: _relu,
    torch.relu: _relu,
    F.relu6: _relu6,
    F.max_pool1d: _max_pool(1),
    F.max_pool2d: _max_pool(2),
    torch.max_pool1d: _max_pool(1),
    torch.max_pool2d: _max_pool(2),
    F.avg_pool1d: _average_pool(1),
    F.avg_pool2d: _average_pool(2),
    F.adaptive_avg_pool1d: lambda _x, output_size: nn.AdaptiveAvgPool1d(output_size),
    F.adaptive_avg_pool2d: lambda _x, output_size: nn.AdaptiveAvgPool2d(output_size),
    torch.flatten: _flatten,
    torch.mean: _mean,
    F.dropout: _identity,
}

_METHODS: dict[str, Callable[..., nn.Module]] = {
    "relu": _relu,
    "relu_": _relu,
    "flatten": _flatten,
    "mean": _mean,
    "contiguous": _identity,
}

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_RESHAPES = (torch.reshape, "view", "reshape")


def as_module(node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> nn.Module | None:
    """The torch.nn module that computes the functional call or method of `node`; None for an addition.

    Args:
        before: shape of its first input. after: shape of its result.

    Raises:
        UnsupportedLayerError: there is none.
    """
    if node.target in _ADDITIONS:
        if node.kwargs:
            raise UnsupportedLayerError(f"{node.name!r} scales what it adds: use a plain x + y")
        return None
    if node.target in _RESHAPES:
        if after != (before[0], math.prod(before[1:])):
            raise UnsupportedLayerError(
                f"{node.name!r} reshapes {before[1:]} to {after[1:]}: only flattening is supported; "
                "give the model its inputs in the shape that its first layer takes"
            )
        return nn.Flatten()
    build = _METHODS.get(str(node.target)) if node.op == "call_method" else _FUNCTIONS.get(node.target)
    if build is None:
        name = getattr(node.target, "__name__", node.target)
        raise UnsupportedLayerError(f"the operation {name!r} (at {node.name!r}) has no int8 kernel here: use a layer")
    module: nn.Module = build(*node.args, **node.kwargs)
    return _resolve_mean(node, module, len(before)) if isinstance(module, _MeanOver) else module


def _resolve_mean(node: fx.Node, mean: _MeanOver, rank: int) -> nn.Module:
    if sorted(axis % rank for axis in mean.axes) != list(range(2, rank)):
        raise UnsupportedLayerError(
            f"{node.name!r} is a mean over axes {mean.axes}: only over all positions is supported"
        )
    return PositionMean(keepdim=mean.keepdim)
