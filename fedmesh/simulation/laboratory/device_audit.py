"""Canaries in DP-SGD with noise on each device: every device's releases are seen by themselves."""

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.parameters import FlatParameters
from fedmesh.client.trainer import build_model
from fedmesh.simulation.laboratory.canaries import LENGTH
from fedmesh.simulation.laboratory.planted import PlantedDpSgd, plantable, planted_among
from fedmesh.simulation.laboratory.rehearsal import Rehearsal
from fedmesh.simulation.laboratory.subject import Subject

__all__ = ["places", "scores"]


def places(subject: Subject) -> NDArray[np.int64]:
    """The coordinates that a canary can have."""
    return plantable(build_model(subject.task))


def scores(run: Rehearsal) -> NDArray[np.float64]:
    """The score of every canary at the end of `run`, float64 [m], in units of the promised clip."""
    subject, task = run.subject, run.task
    assert task.dp is not None
    assert subject.task.dp is not None
    clip = subject.task.dp.clip
    model = build_model(task)
    parameters = FlatParameters(model)
    trainer = PlantedDpSgd(
        model, task.dp, learning_rate=task.learning_rate, momentum=task.momentum, canary_norm=LENGTH * clip
    )
    weights = subject.weights
    seen = np.zeros((len(subject.data.devices), parameters.size))
    for number in range(run.rounds):
        change = np.zeros(parameters.size)
        for device, examples in enumerate(subject.data.devices):
            parameters.load(weights)
            trainer.seen = seen[device]
            x, y = planted_among(examples, np.repeat(run.canaries.of(device), run.fault.copies))
            trainer.fit(x, y, run.noise(number, device))
            change += parameters.delta(weights)
        weights = (weights + change / len(subject.data.devices)).astype(np.float32)
    return np.asarray(seen[run.canaries.device, run.canaries.place] / clip)
