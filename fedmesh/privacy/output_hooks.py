"""Opacus's per-example gradients, fed by the gradients of layer outputs instead of full backward hooks.

Opacus decides which layers are sampled, refuses what it cannot do, and has the formulas, also by functorch for layers
that it does not know. Equal to Opacus's own hooks and 1.5 to 2 times as fast: the ordinary weight gradients, which
DP-SGD throws away, are never computed, the first layer's hook needs no gradient of the examples, and what a sampler
returns is kept, not copied. `calls` gives what each layer saw, for clipping that needs no per-example gradients. This
module imports Opacus, which takes two seconds; import it where it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer
from opacus.layers.dp_rnn import DPGRU, DPLSTM, DPRNN
from torch import Tensor, nn

from fedmesh.errors import ConfigError
from fedmesh.privacy.layer_parts import Call

__all__ = ["OutputHooks", "Sampler"]

Sampler = Callable[[Any, Any, Any], Any]
"""(layer, activations, backprops) -> {parameter: per-example gradients [B, ...]}: what Opacus calls a grad sampler."""

_INSIDE = (DPRNN, DPLSTM, DPGRU)
"""Opacus's recurrent layers: the linear layers inside them carry the hooks."""


class OutputHooks(GradSampleHooks):  # type: ignore[misc]  # opacus is untyped
    """Between `enable_hooks` and `disable_hooks`, every call of a layer is remembered for `calls` or `seen`.

    Args:
        model: without buffers, in training mode while the hooks are on.
        own_samplers: samplers by layer type that Opacus does not have, or not as good; for this model only.

    Raises:
        NotImplementedError: Opacus does not support the model.
        ValueError: the model already has hooks.
    """

    def __init__(self, model: nn.Module, own_samplers: dict[type, Sampler]) -> None:
        self.GRAD_SAMPLERS = {**GradSampleHooks.GRAD_SAMPLERS, **own_samplers}
        self._captured: list[_Capture] = []
        super().__init__(model, batch_first=True, loss_reduction="sum", strict=True)

    def add_hooks(self, *, batch_first: bool = True, force_functorch: bool = False, **_: Any) -> None:
        """Called by Opacus's constructor: a forward hook on every layer that has parameters of its own."""
        if hasattr(self._module, "autograd_grad_sample_hooks"):
            raise ValueError("it has such hooks already: close the DpSgd that put them there")
        self._module.autograd_grad_sample_hooks = self.autograd_grad_sample_hooks = []
        for module in self.iterate_submodules(self._module):
            if isinstance(module, _INSIDE):
                continue
            if force_functorch or type(module) not in self.GRAD_SAMPLERS:
                prepare_layer(module, batch_first=batch_first)
            self.autograd_grad_sample_hooks.append(module.register_forward_hook(self._capture))

    def _capture(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if not (self.hooks_enabled and torch.is_grad_enabled()):
            return
        if not isinstance(output, Tensor):
            raise ConfigError(f"a {type(module).__name__} that returns no single tensor cannot be trained with DP-SGD")
        activations = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
        self._captured.append(_Capture(module, activations, output, output.grad_fn))

    def calls(self, loss: Tensor) -> list[Call]:
        """What each call of a layer saw, for the calls that the loss depends on; no gradient of a weight is computed.

        Args:
            loss: scalar, summed over the examples of one forward pass.

        Raises:
            ConfigError: a layer's output was changed in place after the layer returned it.
        """
        captured, self._captured = self._captured, []
        for capture in captured:
            if capture.output.grad_fn is not capture.grad_fn:
                raise ConfigError(
                    f"the output of a {type(capture.module).__name__} is changed in place, which falsifies per-example "
                    "gradients: use the operation that returns a new tensor"
                )
        gradients = torch.autograd.grad(loss, [capture.output for capture in captured], allow_unused=True)
        return [
            Call(capture.module, capture.activations, backprops)
            for capture, backprops in zip(captured, gradients, strict=True)
            if backprops is not None
        ]

    def sample(self, call: Call) -> dict[nn.Parameter, Tensor]:
        """The call's per-example gradients, [B, *shape] for each trainable parameter of its layer."""
        sampler = self.GRAD_SAMPLERS.get(type(call.module), ft_compute_per_sample_gradient)
        made = sampler(call.module, call.activations, call.backprops)
        return {parameter: rows for parameter, rows in made.items() if parameter.requires_grad}

    def seen(self) -> list[Call]:
        """The calls since the last `calls` with their outputs in the place of the backprops: for their shapes."""
        captured, self._captured = self._captured, []
        return [Call(capture.module, capture.activations, capture.output.detach()) for capture in captured]

    def forget(self) -> None:
        """Drops what a step that failed has left here: it is made of examples."""
        self._captured.clear()


@dataclass(frozen=True, slots=True)
class _Capture:
    """One call of a layer in the forward pass."""

    module: nn.Module
    activations: list[Any]
    output: Tensor
    grad_fn: Any
