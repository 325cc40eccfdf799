"""Where a device's randomness comes from: the operating system, or in a simulation the seed, the round and the device.

A simulated device draws the same numbers whichever worker runs it, whenever, and however often. On a device
(`Task.keyed_noise_seed` is None) nothing can be repeated.
"""

import json

import numpy as np

from fedmesh.client.assignment import Assignment
from fedmesh.client.task import Task
from fedmesh.errors import DecodeError
from fedmesh.privacy.ledger import release_id
from fedmesh.privacy.noise import KeyedNoise, NoiseSource, SystemNoise

__all__ = ["batch_order", "noise_of", "release_of", "rounding"]

_BATCHES, _ROUNDING = 0, 1
_AFTERWARDS = {"secure_aggregation", "weight_cap", "group_size"}
"""Keys of a task that say what becomes of an update: the release itself is the same with them and without."""


def batch_order(task: Task, round_number: int, device: int) -> np.random.Generator:
    """The generator that shuffles examples: nothing private rests on it."""
    return _generator(task, round_number, device, _BATCHES)


def rounding(task: Task, round_number: int, device: int) -> np.random.Generator:
    """The generator of stochastic rounding, which follows the noise and so needs no secrecy."""
    return _generator(task, round_number, device, _ROUNDING)


def noise_of(task: Task, release: str | None) -> NoiseSource:
    """What a private release samples, rounds and perturbs with; `release` as by `release_of`."""
    if task.keyed_noise_seed is None or release is None:
        return SystemNoise()
    return KeyedNoise(task.keyed_noise_seed, "noise", release)


def release_of(task: Task, assignment: Assignment) -> str | None:
    """Names one release of a simulated device; None on a real one, where no release can be repeated.

    It covers all that the release is a function of besides the device's data: running it again with the same noise
    reveals nothing new, so a resumed simulation does not pay for it twice.
    """
    if task.keyed_noise_seed is None:
        return None
    plain = {key: value for key, value in task.to_plain().items() if key not in _AFTERWARDS}
    if assignment.backbone is None:  # of a device that trains the whole model, lite ones beside it change nothing
        del plain["head"]
    public = json.dumps(plain, sort_keys=True)
    scales = np.asarray(assignment.ranges if task.summed else (), np.float64)
    weights = np.ascontiguousarray(assignment.weights)
    frozen = () if assignment.backbone is None else (assignment.backbone,)
    return release_id(public, assignment.round, assignment.device, scales.tobytes(), weights.tobytes(), *frozen)


def _generator(task: Task, round_number: int, device: int, purpose: int) -> np.random.Generator:
    if round_number < 0 or device < 0:
        raise DecodeError(f"round {round_number} and device {device} were named: neither can be negative")
    if task.keyed_noise_seed is None:
        return np.random.default_rng()
    return np.random.default_rng([task.keyed_noise_seed, round_number, device, purpose])
