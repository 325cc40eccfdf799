"""One step of DP-SGD on a batch of a fixed size, by fedmesh and by Opacus in its ways.

Opacus's engine attaches these very modules and optimizers; its data loader, which draws the batches, is left out: it
costs more than a step of a small model. fedmesh draws its batch (at a rate of 1) and its noise from AES in the step.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.privacy_peers.workloads import CLIP, LEARNING_RATE, NOISE_MULTIPLIER, batch, prepared

Step = Callable[[], object]


def fedmesh(name: str, size: int) -> Step:
    """`DpSgd`, one step a call."""
    from fedmesh.privacy import DpSettings, DpSgd, SystemNoise

    settings = DpSettings(8.0, 1e-5, CLIP, NOISE_MULTIPLIER, 1.0, 1, float(size))
    sgd = DpSgd(prepared(name), settings, learning_rate=LEARNING_RATE)
    x, y = batch(name, size)
    noise = SystemNoise()
    return lambda: sgd.fit(x, y, noise)


def stock(name: str, size: int) -> Step:
    """Opacus as it comes: layers that it does not know go through functorch."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model = prepared(name)
    x, y = batch(name, size)
    wrapped = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(_sgd(model), **_options(size))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(wrapped(x), y, reduction="sum").backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        optimizer.step()

    return step


def with_samplers(name: str, size: int) -> Step:
    """Opacus, told the gradient formulas of the quantized layers."""
    _register(prepared(name))
    return stock(name, size)


def ghost(name: str, size: int) -> Step:
    """Opacus's ghost clipping of linear layers and fast gradient clipping of the others, told all formulas."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    model = prepared(name)
    _register(model)
    x, y = batch(name, size)
    wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=CLIP)
    optimizer = DPOptimizerFastGradientClipping(_sgd(model), **_options(size))
    criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(reduction="sum"), "sum")

    def step() -> None:
        optimizer.zero_grad()
        criterion(wrapped(x), y).backward()
        optimizer.step()

    return step


TRAINERS: dict[str, Callable[[str, int], Step]] = {
    "fedmesh": fedmesh,
    "Opacus": stock,
    "Opacus, told": with_samplers,
    "Opacus, ghost": ghost,
}


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    warnings.filterwarnings("ignore", message="Secure RNG turned off")
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)


def _options(size: int) -> dict[str, Any]:
    return {
        "noise_multiplier": NOISE_MULTIPLIER,
        "max_grad_norm": CLIP,
        "expected_batch_size": size,
        "loss_reduction": "sum",
    }


def _register(model: nn.Module) -> None:
    """Tells Opacus, in this process, what the layers bring and that the linear ones are linear."""
    from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping

    norms = GradSampleHooksFastGradientClipping.NORM_SAMPLERS
    for layer in model.modules():
        if hasattr(layer, "per_sample_gradients"):
            GradSampleHooks.GRAD_SAMPLERS[type(layer)] = lambda one, x, backprops: one.per_sample_gradients(
                x, backprops
            )
            if layer.gradient_law == "linear":
                norms[type(layer)] = norms[nn.Linear]
