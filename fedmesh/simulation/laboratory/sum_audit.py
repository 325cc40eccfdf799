"""Canaries in sums that carry noise: what is seen is one total of all devices a round."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedmesh.client.assignment import Assignment
from fedmesh.client.parameters import FlatParameters
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer, build_model
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summed import SumSettings
from fedmesh.privacy.summing import encode_examples, encode_update, mean_of, server_noise
from fedmesh.simulation.laboratory.broken import silent
from fedmesh.simulation.laboratory.canaries import LENGTH
from fedmesh.simulation.laboratory.rehearsal import Rehearsal
from fedmesh.simulation.laboratory.subject import Subject
from fedmesh.types import Float32

__all__ = ["client_scores", "example_scores", "places"]

_ROWS = 256
"""Canaries' gradients held at a time."""

Float64 = NDArray[np.float64]


def places(subject: Subject) -> NDArray[np.int64]:
    """The coordinates that a canary can have: all."""
    return np.arange(len(subject.weights))


def example_scores(run: Rehearsal) -> Float64:
    """Of canary examples among the devices' own, with noise in the sum; as `device_audit.scores`."""
    from fedmesh.privacy.example_sum import ExampleGradients

    subject, task = run.subject, run.task
    settings, clip = _settings(task), _settings(subject.task).clip
    model = build_model(task)
    parameters, gradients = FlatParameters(model), ExampleGradients(model)
    weights, seen, devices = subject.weights, np.zeros(settings.size), len(subject.data.devices)
    for number in range(run.rounds):
        seed, total = rotation_seed(number, weights), np.zeros(settings.length, np.int64)
        known = np.zeros(settings.size)
        parameters.load(weights)
        for device, examples in enumerate(subject.data.devices):
            x, y = torch.from_numpy(examples.x), torch.from_numpy(examples.y)
            rows = [part.numpy() for part in gradients.rows(x, y)]
            known += sum(_clipped(part, settings.clip).sum(axis=0) for part in rows)
            places = np.repeat(run.canaries.of(device), run.fault.copies)
            total += encode_examples(
                _with_noise_of(settings, device),
                [*rows, *_unit_rows(places, settings.size, LENGTH * clip)],
                clip=settings.clip,
                seed=seed,
                noise=run.noise(number, device),
            )
        step = mean_of(settings, total, devices, clip=settings.clip, seed=seed)
        seen -= step.astype(np.float64) * (devices * settings.expected_batch / settings.step) + known
        weights = (weights + step).astype(np.float32)
    return seen[run.canaries.place] / clip


def client_scores(run: Rehearsal) -> Float64:
    """Of canaries that are devices of their own and add no noise; as `device_audit.scores`."""
    subject, task = run.subject, run.task
    settings, clip = replace(_settings(task), quantile=None), _settings(subject.task).clip
    trainer = Trainer.of(task)
    weights, seen = subject.weights, np.zeros(settings.size)
    joined = np.repeat(run.canaries.place[run.canaries.included], run.fault.copies)
    members = len(subject.data.devices) + len(joined)
    for number in range(run.rounds):
        seed = rotation_seed(number, weights)
        total, known = np.zeros(settings.length, np.int64), np.zeros(settings.size)
        for device, examples in enumerate(subject.data.devices):
            update = trainer.change(Assignment(number, device, weights), examples)
            known += _clipped(update[np.newaxis], settings.clip)[0]
            own = run.noise(number, device)
            total += encode_update(_with_noise_of(settings, device), update, clip=settings.clip, seed=seed, noise=own)
        noiseless = replace(settings, trusted_server=True)
        for index, update in enumerate(_units(joined, settings.size, LENGTH * clip)):
            total += encode_update(
                noiseless, update, clip=settings.clip, seed=seed, noise=run.noise(number, "canary", index)
            )
        step = mean_of(settings, total, members, clip=settings.clip, seed=seed)
        if settings.trusted_server:
            added = server_noise(settings, members, clip=settings.clip, noise=run.noise(number, "server"))
            step = (step + added).astype(np.float32)
        seen += step.astype(np.float64) * (members / settings.step) - known
        weights = (weights + step).astype(np.float32)
    return seen[run.canaries.place] / clip


def _settings(task: Task) -> SumSettings:
    assert task.summed is not None
    return task.summed


def _with_noise_of(settings: SumSettings, device: int) -> SumSettings:
    """Settings under which `honest` devices add their noise, and all others next to none: colluders take theirs off."""
    return settings if device < settings.honest else silent(settings)


def _clipped(rows: NDArray[np.floating], clip: float) -> Float64:
    """Each row scaled down to `clip`, float64 [N, P]; a row that is not finite becomes zero."""
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    finite = np.isfinite(norms)
    factors = np.minimum(1.0, clip / np.maximum(norms, 1e-30))
    return np.where(finite[:, np.newaxis], rows, 0.0) * np.where(finite, factors, 0.0)[:, np.newaxis]


def _unit_rows(places: NDArray[np.int64], size: int, norm: float) -> Iterator[Float32]:
    """Canaries' gradients, a few at a time: float32 [b, P]."""
    for start in range(0, len(places), _ROWS):
        part = places[start : start + _ROWS]
        rows = np.zeros((len(part), size), np.float32)
        rows[np.arange(len(part)), part] = norm
        yield rows


def _units(places: Iterable[int], size: int, norm: float) -> Iterator[Float32]:
    """Canaries' updates one by one: float32 [P]."""
    for place in places:
        update = np.zeros(size, np.float32)
        update[place] = norm
        yield update
