"""What can be known to be wrong before anything is trained or written.

A scenario is kept in its run directory and does not change any more: a mistake in it must be found before there is one.
"""

import numpy as np
import torch

from fedmesh.errors import ConfigError
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.featuring import featured_example
from fedmesh.federation.plan import make_strategy, make_task
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.start import build_model
from fedmesh.plugins import CLIENTS, FEATURES, MODELS, STRATEGIES, find
from fedmesh.quantization import head_of, prepare
from fedmesh.types import Layout

__all__ = ["check_fit", "check_plugins"]

_ANY_LAYOUT = Layout(("weights",), ((1,),))


def check_plugins(scenario: Scenario) -> None:
    """Raises: ConfigError when the model, client, strategy or features that the scenario names are not installed."""
    for group, section in ((MODELS, scenario.model), (CLIENTS, scenario.client), (STRATEGIES, scenario.strategy)):
        find(group, section.name)
    if scenario.features.name is not None:
        find(FEATURES, scenario.features.name)


def check_fit(scenario: Scenario, data: FederatedData, *, devices: int | None = None, in_groups: bool = False) -> None:
    """Builds the features, the model and the strategy once, and shows the model an example.

    `devices`: how many there are to be; None: as many as `data` has. `in_groups`: as for `make_strategy`.

    Raises:
        ConfigError: one of them refuses its options, the model does not turn an example into a logit for each class,
            the data makes too few devices for a secure sum, or no noise keeps the privacy budget; lite devices are
            planned, and the model does not end with a linear layer.
    """
    if (too_few := scenario.too_few_for_a_sum(len(data.devices) if devices is None else devices)) is not None:
        raise ConfigError(too_few)
    example = featured_example(data.public, scenario).x
    classes, shape = len(data.classes), example.shape[1:]
    model = build_model(scenario.model, shape, classes, scenario.seed).eval()
    try:
        with torch.no_grad():
            got = tuple(model(torch.from_numpy(example)).shape)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the model {scenario.model.name!r} does not take examples of shape {list(shape)}: {error}"
        ) from error
    if got != (1, classes):
        raise ConfigError(
            f"the model {scenario.model.name!r} answers one example with an output of shape {list(got)}, wanted "
            f"[1, {classes}]: a logit for each class"
        )
    size = sum(parameter.numel() for parameter in model.parameters())  # before folding, which hardly changes it
    if scenario.client.lite_fraction:
        head_of(prepare(model, torch.from_numpy(example), scales=scenario.quantization.scales))
    task = make_task(scenario, PublicStart(np.zeros(size, np.float32), {}), shape, classes)
    make_strategy(scenario, _ANY_LAYOUT, task, in_groups=in_groups)
