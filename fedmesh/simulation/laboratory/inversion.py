"""Gradient inversion: the training images back from the update that a server sees.

Images are searched whose gradient points the same way as the update (Geiping et al. 2020, arXiv 2003.14053: cosine
distance and total variation, signed steps of Adam). The attacker is given the labels, the start, the learning rate, and
that the device took one step on all of its examples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmesh.errors import ConfigError
from fedmesh.types import Float32

__all__ = ["Resemblance", "by_matching", "resemblance", "similarity"]


@dataclass(frozen=True, slots=True)
class Resemblance:
    """How much reconstructions look like the originals.

    Attributes:
        mse: mean squared error of pixels in 0..1; ssim: structural similarity, 1 is equal, 0 is nothing in common.
        recognised: share of them that resemble their own original more than any other candidate.
    """

    mse: float
    ssim: float
    recognised: float


def by_matching(
    model: nn.Module,
    gradients: Float32,
    labels: NDArray[np.int64],
    shape: tuple[int, ...],
    *,
    rng: np.random.Generator,
    steps: int = 600,
    restarts: int = 4,
    smoothness: float = 1e-3,
    learning_rate: float = 0.1,
) -> Float32:
    """Images whose gradients point where the ones seen do, float32 [T, B, *shape], values in 0..1.

    Args:
        model: the start that devices trained from, as its plain float function.
        gradients: what was seen in T trials, float32 [T, P], in ``model.parameters()`` order; of any length.
        labels: of the B images behind each, int64 [T, B].
        shape: of one image, [C, H, W].
        rng: draws the images that the search starts from.
        steps: of Adam. restarts: searches for each trial; the one that matches best is kept.
        smoothness: weight of the total variation.
        learning_rate: of Adam, in pixel values.

    Raises:
        ConfigError: examples are no images, or the gradients do not fit the model.
    """
    size = sum(parameter.numel() for parameter in model.parameters())
    if len(shape) != 3 or gradients.ndim != 2 or gradients.shape[1] != size:
        raise ConfigError(
            f"gradients of shape {list(gradients.shape)} over examples of shape {list(shape)} came; wanted [T, {size}] "
            "and images [channels, height, width]"
        )
    trials, batch = labels.shape
    targets = F.normalize(torch.from_numpy(gradients), dim=1).repeat_interleave(restarts, dim=0)
    truth = torch.from_numpy(labels).repeat_interleave(restarts, dim=0)
    found = torch.from_numpy(rng.random((trials * restarts, batch, *shape), np.float32)).requires_grad_()
    mismatch = _mismatch(model)
    optimizer = torch.optim.Adam([found], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 3 // 8, steps * 5 // 8, steps * 7 // 8], 0.3)
    for _ in range(steps):
        with torch.enable_grad():
            loss = mismatch(found, targets, truth).sum() + smoothness * _variation(found)
            (slope,) = torch.autograd.grad(loss, [found])
        found.grad = slope.sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            found.clamp_(0, 1)
    with torch.no_grad():
        best = mismatch(found, targets, truth).view(trials, restarts).nan_to_num(math.inf).argmin(dim=1)
        images = found.view(trials, restarts, batch, *shape)[torch.arange(trials), best]
    return np.asarray(images.numpy(), np.float32)


def resemblance(originals: Float32, found: Float32, candidates: Float32) -> Resemblance:
    """How much `found` looks like `originals`.

    Args:
        originals: float32 [N, ...] in 0..1, the images; found: the reconstructions, in the same order.
        candidates: float32 [M, ...], other images that a reconstruction could be of.
    """
    right = 0
    for one, image in zip(found, originals, strict=True):
        own = _correlation(one, image)
        right += int(own > max((_correlation(one, other) for other in candidates), default=-1.0))
    ssim = float(np.mean([similarity(one, image) for one, image in zip(found, originals, strict=True)]))
    return Resemblance(float(np.mean((originals - found) ** 2)), ssim, right / len(originals))


def similarity(first: Float32, second: Float32) -> float:
    """Structural similarity over the whole image (Wang et al. 2004, one window), values in 0..1."""
    a, b = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    light, contrast = 0.01**2, 0.03**2
    covariance = float(((a - a.mean()) * (b - b.mean())).mean())
    return float(
        (2 * a.mean() * b.mean() + light) * (2 * covariance + contrast)
        / ((a.mean() ** 2 + b.mean() ** 2 + light) * (a.var() + b.var() + contrast))
    )  # fmt: skip


def _mismatch(model: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(images [S, B, ...], unit targets [S, P], labels [S, B]) -> 1 - cosine, [S]."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, values, (images,)), labels)

    def one(images: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.func.grad(loss)(parameters, images, labels)
        flat = torch.cat([gradient[name].reshape(-1) for name in parameters])
        cosine: Tensor = torch.dot(flat, target) / (torch.linalg.vector_norm(flat) + 1e-12)
        return 1 - cosine

    batched: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.func.vmap(one)
    return batched


def _variation(images: Tensor) -> Tensor:
    """Total variation: the mean distance of neighbours, for each image, added up."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(-1, -2, -3))
    along = (images[..., :, 1:] - images[..., :, :-1]).abs().mean(dim=(-1, -2, -3))
    return (down + along).sum()


def _correlation(first: Float32, second: Float32) -> float:
    a, b = (image.astype(np.float64).ravel() - image.mean() for image in (first, second))
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
