"""The public start: a model pre-trained, folded, prepared and calibrated on public data alone.

Nothing here sees a private example. Activation ranges are fixed here and never change again, because a range learned on
a device would be a function of its data that DP-SGD does not cover.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedmesh.errors import ConfigError
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.scenario import ModelSection, Scenario
from fedmesh.plugins import MODELS, load
from fedmesh.quantization import arrays_of, calibrate, load_arrays, load_ranges, prepare
from fedmesh.types import Examples, Layout

__all__ = ["build_model", "make_start", "one_thread", "restore"]

_MOMENTUM = 0.9
_CALIBRATION_BATCH = 64


def build_model(section: ModelSection, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The scenario's float model, freshly initialised from `seed` without touching torch's global generator.

    Raises:
        ConfigError: there is no such model, or it does not take its options or examples of this shape.
    """
    factory = load(MODELS, section.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = factory(input_shape, classes, **section.options)
        except (TypeError, ValueError, RuntimeError) as error:  # torch and the call itself; ours are ConfigErrors
            raise ConfigError(
                f"the model {section.name!r} cannot be built for examples of shape {list(input_shape)} with options "
                f"{section.options}: {error}; choose another [model] name, or correct its options"
            ) from error
    return model


def make_start(scenario: Scenario, public: Examples, classes: int) -> tuple[torch.fx.GraphModule, PublicStart]:
    """Pre-trains on `public`, folds batch norm, prepares for quantization and calibrates.

    Returns:
        The prepared model, and what of it is sent to devices.
    """
    model = build_model(scenario.model, public.x.shape[1:], classes, scenario.seed)
    rng = np.random.default_rng([scenario.seed, 1])
    pretrain(model, public, scenario.model, rng)
    prepared = prepare(model.eval(), torch.from_numpy(public.x[:1]), scales=scenario.quantization.scales)
    chosen = rng.permutation(len(public))[: scenario.quantization.calibration_examples]
    ranges = calibrate(prepared, torch.split(torch.from_numpy(public.x[chosen]), _CALIBRATION_BATCH))
    arrays = arrays_of(prepared)
    return prepared, PublicStart(Layout.of(arrays).flatten(arrays), ranges)


def restore(scenario: Scenario, start: PublicStart, example: Examples, classes: int) -> torch.fx.GraphModule:
    """The prepared model of a start that was made earlier; `example` gives the input shape."""
    model = build_model(scenario.model, example.x.shape[1:], classes, scenario.seed)
    prepared = prepare(model.eval(), torch.from_numpy(example.x[:1]), scales=scenario.quantization.scales)
    load_ranges(prepared, start.ranges)
    load_arrays(prepared, Layout.of(arrays_of(prepared)).unflatten(start.weights))
    return prepared


def pretrain(model: nn.Module, public: Examples, settings: ModelSection, rng: np.random.Generator) -> None:
    """SGD with momentum on the cross-entropy, in place.

    The same numbers as torch.optim.SGD, whose first use loads torch's compiler: two seconds and 70 MB.
    """
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    x, y = torch.from_numpy(public.x), torch.from_numpy(public.y)
    for _ in range(settings.pretrain_epochs):
        for batch in _batches(len(public), settings.pretrain_batch_size, rng):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            steps = torch.autograd.grad(loss, parameters, materialize_grads=True)
            with torch.no_grad():
                for parameter, velocity, step in zip(parameters, velocities, steps, strict=True):
                    parameter.sub_(velocity.mul_(_MOMENTUM).add_(step), alpha=settings.pretrain_learning_rate)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread in this process: sums would depend on the number of cores otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """A random order in batches of `size`; a last single example is left out, batch norm cannot use it."""
    for batch in torch.split(torch.from_numpy(rng.permutation(count)), size):
        if len(batch) > 1 or count == 1:
            yield batch
