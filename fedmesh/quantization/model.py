"""A quantization-aware model as named arrays, and the switch between its int8 and its float function."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmesh.errors import ConfigError
from fedmesh.quantization.layers import QuantizedModule
from fedmesh.types import Arrays

__all__ = ["arrays_of", "fake_quantization", "float_function", "load_arrays"]


def arrays_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Name -> copy of each parameter, in the model's order (that of `Layout.of`)."""
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Writes `arrays` into the parameters, in place; weight and bias grids follow them at the next forward.

    ``load_arrays(m, arrays_of(m))`` changes nothing.

    Raises:
        ConfigError: names or shapes are not the model's, or a value is not finite; nothing was written then.
    """
    parameters = dict(model.named_parameters())
    if set(arrays) != set(parameters):
        missing, unknown = sorted(set(parameters) - set(arrays)), sorted(set(arrays) - set(parameters))
        raise ConfigError(f"the arrays are those of another model: missing {missing}, unknown {unknown}")
    for name, parameter in parameters.items():
        if tuple(arrays[name].shape) != tuple(parameter.shape):
            got, want = list(arrays[name].shape), list(parameter.shape)
            raise ConfigError(f"the array {name!r} has shape {got}, the model wants {want}: it is of another model")
        if not np.isfinite(arrays[name]).all():
            raise ConfigError(f"the array {name!r} holds values that are not finite: lower the learning rate")
    for name, parameter in parameters.items():
        np.copyto(parameter.detach().numpy(), arrays[name])


def fake_quantization(model: nn.Module, enabled: bool) -> None:
    """Switches `model` between the function of its int8 graph (True) and the plain float32 function of its weights."""
    for module in model.modules():
        if isinstance(module, QuantizedModule):
            module.enabled = enabled


@contextmanager
def float_function(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is its plain float32 function; each module is as it was afterwards."""
    before = [(module, module.enabled) for module in model.modules() if isinstance(module, QuantizedModule)]
    fake_quantization(model, False)
    try:
        yield
    finally:
        for module, enabled in before:
            module.enabled = enabled
