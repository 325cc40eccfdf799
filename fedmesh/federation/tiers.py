"""Two tiers in one federation: which devices are lite, and the backbone that they get in every round.

What averaging does: a lite device's update is zero in the backbone, and counts in the mean. With k lite devices of n
the backbone moves by (n - k)/n of the full devices' mean, as if its learning rate were that much lower; the last layer
moves by the mean of all (docs/lite.md has what that costs).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord

from fedmesh.client.backbone import MAX_BACKBONE_BYTES
from fedmesh.coordinator.tiers import Tiered
from fedmesh.errors import ConfigError
from fedmesh.federation.scenario import Scenario
from fedmesh.flower.arrays import vector
from fedmesh.quantization import check_backbone, export_backbone, fake_quantization, load_arrays
from fedmesh.types import Float32, Layout

__all__ = ["Backbones", "lite_devices", "tiered"]

_CHECKED = 32


def lite_devices(scenario: Scenario, devices: int) -> frozenset[int]:
    """Numbers of the lite devices among `devices`: drawn by the seed, a share of `client.lite_fraction`, rounded.

    At least one where the fraction is above 0. On a fleet a device's own configuration says what it is, not the draw.
    """
    fraction = scenario.client.lite_fraction
    count = max(1, round(fraction * devices)) if fraction else 0
    rng = np.random.default_rng([scenario.seed, 6])  # as no other draw of a scenario
    return frozenset(rng.choice(devices, size=count, replace=False).tolist())


class Backbones:
    """Makes the backbone of given weights, and checks it on public examples.

    Args:
        model: the prepared and calibrated model; its parameters are changed.
        layout: of its arrays.
        public: examples [N >= 1, ...] that the server may see.
    """

    def __init__(self, model: torch.fx.GraphModule, layout: Layout, public: Float32) -> None:
        self._model = model
        self._layout = layout
        self._inputs = public[:_CHECKED]

    def of(self, arrays: ArrayRecord) -> bytes:
        """The backbone, given the global arrays as they are sent.

        Raises:
            MismatchError: it does not compute what the fake-quantized model computes.
            ConfigError: it is larger than a device takes. DecodeError: the arrays are not of this model.
        """
        weights = vector(arrays, "model", dtype="float32", max_bytes=4 * self._layout.size)
        load_arrays(self._model, self._layout.unflatten(weights))
        fake_quantization(self._model, enabled=True)
        data = export_backbone(self._model, example=torch.from_numpy(self._inputs[:1]))
        if len(data) > MAX_BACKBONE_BYTES:
            raise ConfigError(
                f"the model's backbone takes {len(data)} bytes, a lite device {MAX_BACKBONE_BYTES} at most: choose a "
                "smaller [model], or set client.lite_fraction to 0"
            )
        check_backbone(self._model, data, self._inputs)
        return data


def tiered(strategy: Any, backbones: Backbones, is_lite: Callable[[int], bool]) -> Tiered:
    """`strategy` for a federation with lite devices.

    Args:
        strategy: of the scenario.
        backbones: of its model.
        is_lite: node id -> whether its device is a lite one.
    """
    return Tiered(strategy, is_lite=is_lite, backbone_of=backbones.of)
