"""Which models per-example gradients may be taken of, and how a layer brings its own sampler."""

import logging
from typing import TYPE_CHECKING, Any

from torch import nn

from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.privacy.output_hooks import OutputHooks, Sampler

__all__ = ["attach", "check_supported", "hooks_class"]

_BATCH_NORM = nn.modules.batchnorm._BatchNorm  # noqa: SLF001  # the only common base of all batch norms, lazy and synced
_DROPOUT = nn.modules.dropout._DropoutNd  # noqa: SLF001  # likewise


def check_supported(model: nn.Module) -> None:
    """Refuses what breaks the promise or the arithmetic of per-example gradients.

    Raises:
        ConfigError: naming the layer and what to do instead.
    """
    for name, module in model.named_modules():
        reason = _refusal(module)
        if reason:
            raise ConfigError(f"layer {name!r} ({type(module).__name__}) {reason}")
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise ConfigError(
            f"the model has buffers ({', '.join(buffers)}), which the noise of DP-SGD does not cover: make them "
            "constants of the module, or fold them into the weights"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("the model has no trainable parameter: nothing can be trained with DP-SGD")


def attach(model: nn.Module) -> "OutputHooks":
    """Opacus's hooks on `model`, switched off.

    A layer with a method ``per_sample_gradients(activations, backprops) -> {parameter: Tensor [B, ...]}`` is its own
    sampler, for this model only: Opacus's registry, which is global, stays as it is.

    Raises:
        ConfigError: Opacus cannot compute per-example gradients of the model.
    """
    own: dict[type, Sampler] = {type(m): _own_sampler for m in model.modules() if hasattr(m, "per_sample_gradients")}
    try:
        hooks = hooks_class()(model, own)
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(f"Opacus cannot compute per-example gradients of this model: {error}") from error
    hooks.disable_hooks()
    return hooks


def hooks_class() -> "type[OutputHooks]":
    """Imports Opacus: two seconds, and a call of ``logging.basicConfig`` that does nothing where there is a handler."""
    placeholder = logging.NullHandler()
    logging.getLogger().addHandler(placeholder)
    try:
        from fedmesh.privacy.output_hooks import OutputHooks
    finally:
        logging.getLogger().removeHandler(placeholder)
    return OutputHooks


def _refusal(module: nn.Module) -> str | None:
    """Why this layer cannot be trained with DP-SGD, or None."""
    if isinstance(module, _BATCH_NORM):
        return (
            "normalises by statistics over examples, so that no example has a gradient of its own: fold it with frozen "
            "statistics (fedmesh.quantization.prepare does) or use nn.GroupNorm"
        )
    if isinstance(module, _DROPOUT) and module.p > 0:
        return (
            "draws its masks from torch's global generator, so that a run cannot be repeated: remove it, the noise of "
            "DP-SGD regularises enough"
        )
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return "pads with something else than zeros, which Opacus's formula takes for zeros: set padding_mode='zeros'"
    if getattr(module, "inplace", False):
        return "works in place, which falsifies the gradients of the layer before: set inplace=False"
    return None


def _own_sampler(layer: Any, activations: Any, backprops: Any) -> Any:
    return layer.per_sample_gradients(activations, backprops)
