"""Membership inference: whether an example was in a device's training data, told from what the server sees.

Two attacks on the first update of a device: by the loss threshold (Yeom et al. 2018, arXiv 1709.01604), here of the
loss before and after, both of which the server can compute; and by likelihood ratio (LiRA, Carlini et al. 2022,
arXiv 2112.03570): models trained with and without an example say how confident either would be of it. Every model is
trained on a random half of one pool of examples, and each is the target of all others, so that 32 models give 32
attacks with 31 shadow models each.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmesh.errors import ConfigError
from fedmesh.simulation.laboratory.roc import Separation, separation
from fedmesh.types import Examples, Float32

__all__ = ["Membership", "attack", "confidences", "likelihood_ratios"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Membership:
    """How well both attacks work against one pipeline."""

    pipeline: str
    loss: Separation
    ratio: Separation


def attack(
    pipeline: str,
    *,
    model: nn.Module,
    load: Callable[[Float32], None],
    weights: Float32,
    observe: Callable[[Examples, int], Float32],
    pool: Examples,
    models: int,
    rng: np.random.Generator,
) -> Membership:
    """Attacks `models` updates, each of a device that holds a random half of `pool`.

    Args:
        pipeline: names it.
        model: that confidences are computed with; load: puts weights, float32 [P], into it.
        weights: the start, that the server sent.
        observe: (a device's examples, number of the trial) -> the update that is seen, float32 [P].
        pool: examples, an even number.
        models: targets, each of which is a shadow model for the others; at least 4.
        rng: draws the halves, and the bootstrap's samples.

    Raises:
        ConfigError: there are too few models or examples.
    """
    if models < 4 or len(pool) < 4:
        raise ConfigError(f"membership is told from 4 models and 4 examples or more, not {models} and {len(pool)}")
    member = np.zeros((models, len(pool)), bool)
    after = np.zeros((models, len(pool)))
    load(weights)
    before = confidences(model, pool)
    for number in range(models):
        member[number, rng.permutation(len(pool))[: len(pool) // 2]] = True
        seen = observe(pool[member[number]], number)
        load((weights + seen).astype(np.float32))
        after[number] = confidences(model, pool)
    drop = np.logaddexp(0, -before) - np.logaddexp(0, -after)  # the loss is log(1 + exp(-confidence))
    ratios = likelihood_ratios(after, member)
    return Membership(pipeline, separation(drop, member, rng=rng), separation(ratios, member, rng=rng))


def confidences(model: nn.Module, examples: Examples) -> Float64:
    """log(p / (1 - p)) of each example's own class, float64 [N]; p is the model's probability of it."""
    with torch.no_grad():
        logits = model(torch.from_numpy(examples.x)).double()
    own = logits[torch.arange(len(examples)), torch.from_numpy(examples.y)]
    others = logits.clone()
    others[torch.arange(len(examples)), torch.from_numpy(examples.y)] = -torch.inf
    values: Float64 = (own - torch.logsumexp(others, dim=1)).numpy()
    return np.nan_to_num(values, nan=0.0, posinf=1e4, neginf=-1e4)


def likelihood_ratios(confidence: Float64, member: NDArray[np.bool_]) -> Float64:
    """Log likelihood ratio of being a member, float64 [models, examples], each model against all others.

    Normal laws with a mean for each example and, as shadow models are few, one variance each for in and out.

    Args:
        confidence: float64 [models, examples]; member: bool, of the same shape.
    """
    inside, outside = _left_out_means(confidence, member), _left_out_means(confidence, ~member)
    within = max(float((confidence - inside)[member].var()), 1e-12)
    without = max(float((confidence - outside)[~member].var()), 1e-12)
    ratio: Float64 = (
        (confidence - outside) ** 2 / (2 * without) - (confidence - inside) ** 2 / (2 * within)
        + 0.5 * np.log(without / within)
    )  # fmt: skip
    return ratio


def _left_out_means(values: Float64, chosen: NDArray[np.bool_]) -> Float64:
    """For each model and example the mean over the other models where `chosen`; over all of them where none is."""
    count = chosen.sum(axis=0) - chosen
    total = (values * chosen).sum(axis=0) - values * chosen
    rest = (values.sum(axis=0) - values) / (len(values) - 1)
    means: Float64 = np.where(count > 0, total / np.maximum(count, 1), rest)
    return means
