"""Models that end with a linear layer, cut before it, and the tasks of lite devices beside full ones."""

import dataclasses
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import fx

from fedmesh.client.task import Task
from fedmesh.plugins import MODELS, load
from fedmesh.quantization import arrays_of, calibrate, export_backbone, head_of, prepare, ranges_of
from fedmesh.types import Examples, Float32, Layout

SHAPES = {
    "digits_cnn": (1, 8, 8),
    "lenet": (3, 32, 32),
    "fashion_cnn": (1, 28, 28),
    "har_cnn": (6, 128),
    "linear_head": (21,),
}


@dataclass(frozen=True)
class Cut:
    """A task of a model, that model, its weights [P] and its backbone."""

    task: Task
    model: fx.GraphModule
    weights: Float32
    backbone: bytes

    def with_task(self, **changes: object) -> Task:
        return dataclasses.replace(self.task, **changes)


def noise(name: str, count: int, seed: int = 1) -> Float32:
    rng = np.random.default_rng([seed, len(name)])
    return rng.standard_normal((count, *SHAPES[name]), dtype=np.float32)


def examples(device: int, count: int = 11, name: str = "digits_cnn", classes: int = 10) -> Examples:
    rng = np.random.default_rng([3, device])
    return Examples(noise(name, count, seed=device + 10), rng.integers(0, classes, count))


@cache
def cut(name: str = "digits_cnn", scales: str = "power-of-two") -> Cut:
    """By default the model of the scenario digits, smaller; calibrated on noise."""
    shape, classes = SHAPES[name], 10
    options = {"width": 3} if name == "digits_cnn" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        plain = load(MODELS, name)(shape, classes, **options)
        if name == "linear_head":
            torch.nn.init.normal_(plain[0].weight)
    model = prepare(plain.eval(), torch.zeros(1, *shape), scales=scales)  # type: ignore[arg-type]
    calibrate(model, [torch.from_numpy(noise(name, 64))])
    arrays = arrays_of(model)
    task = Task(
        name="cut",
        model=name,
        input_shape=shape,
        classes=classes,
        model_options=options,
        ranges=ranges_of(model),
        scales=scales,  # type: ignore[arg-type]
        batch_size=4,
        local_epochs=2,
        learning_rate=0.1,
        keyed_noise_seed=7,
        head=head_of(model),
    )
    backbone = export_backbone(model, example=torch.zeros(1, *shape))
    return Cut(task, model, Layout.of(arrays).flatten(arrays), backbone)
