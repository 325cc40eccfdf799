"""A model's parameters as one flat vector: to load, step or read them is one operation each, whatever the layers."""

import numpy as np
import torch
from torch import Tensor, nn

from fedmesh.client.assignment import check_weights
from fedmesh.errors import ConfigError
from fedmesh.types import Float32, Layout

__all__ = ["FlatParameters"]


class FlatParameters:
    """Makes every parameter of a model a view into one vector, and so every gradient.

    Attributes:
        layout: names and shapes, in ``model.named_parameters()`` order: the order of the federation's flat vector.
        values: float32 [P], the parameters themselves.
        size: P.
        gradients: float32 [P], where backward passes accumulate after `link_gradients`.
    """

    def __init__(self, model: nn.Module) -> None:
        """Raises: ConfigError: the model has no parameters, or some that are not float32 on the CPU."""
        named = dict(model.named_parameters())
        if not named:
            raise ConfigError("the model has no parameters: there is nothing to train")
        for name, parameter in named.items():
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                raise ConfigError(
                    f"parameter {name} is {parameter.dtype} on {parameter.device}: devices train float32 weights on "
                    "the CPU"
                )
        self.layout = Layout(tuple(named), tuple(tuple(parameter.shape) for parameter in named.values()))
        self.values = torch.cat([parameter.detach().reshape(-1) for parameter in named.values()])
        self.gradients = torch.zeros_like(self.values)
        self.size = self.layout.size
        self._sizes = list(self.layout.sizes)
        self._parameters = list(named.values())
        for parameter, part in zip(self._parameters, self._parts(self.values), strict=True):
            parameter.data = part

    def load(self, weights: Float32) -> None:
        """Copies `weights`, float32 [P], into the parameters. Raises: DecodeError: as `check`."""
        self.check(weights)
        np.copyto(self.values.numpy(), weights)

    def check(self, weights: Float32) -> None:
        """Raises: DecodeError: the weights are not float32 [P], or not finite: they are not this model's."""
        check_weights(weights, self.size)

    def link_gradients(self) -> None:
        """Points every parameter's gradient into `gradients`; something else may have taken them away."""
        for parameter, part in zip(self._parameters, self._parts(self.gradients), strict=True):
            parameter.grad = part

    def delta(self, weights: Float32) -> Float32:
        """The parameters minus `weights`, float32 [P], a new array."""
        change: Float32 = self.values.numpy() - weights
        return change

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views into a vector [P] by parameter name; differentiable, and usable under torch.func."""
        return dict(zip(self.layout.names, self._parts(vector), strict=True))

    def _parts(self, vector: Tensor) -> list[Tensor]:
        parts = torch.split(vector, self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self.layout.shapes, strict=True)]
