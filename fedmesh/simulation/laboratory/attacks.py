"""The attacks on a scenario: what its pipeline would leak without defences, and what is left of that with them."""

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from fedmesh.client.parameters import FlatParameters
from fedmesh.client.task import Task
from fedmesh.client.trainer import build_model
from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, StepDone, ignore
from fedmesh.quantization import fake_quantization
from fedmesh.simulation.laboratory import inversion, membership
from fedmesh.simulation.laboratory.auditing import mode_of
from fedmesh.simulation.laboratory.inversion import Resemblance
from fedmesh.simulation.laboratory.membership import Membership
from fedmesh.simulation.laboratory.subject import Subject
from fedmesh.simulation.laboratory.timing import Stopwatch
from fedmesh.simulation.laboratory.visible import Observer, undefended
from fedmesh.types import Examples, Float32

__all__ = ["Inversion", "Reconstruction", "infer_membership", "invert_gradients"]

_BEHIND = {
    "local": "noise on the device",
    "shared": "noise in the secure sum, of examples",
    "client": "noise in the secure sum, of devices",
    "central": "noise of a trusted server",
}


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What inversion made of one pipeline's updates.

    Attributes:
        pipeline: names it; images: float32 [N, C, H, W] in 0..1; figures: how much they look like the originals.
    """

    pipeline: str
    images: Float32
    figures: Resemblance


@dataclass(frozen=True, slots=True)
class Inversion:
    """The originals, float32 [N, C, H, W], and what each pipeline gave away of them."""

    originals: Float32
    reconstructions: tuple[Reconstruction, ...]


def infer_membership(
    subject: Subject,
    *,
    examples: int = 32,
    models: int = 32,
    local_epochs: int = 10,
    seed: int | None = None,
    events: EventSink = ignore,
) -> list[Membership]:
    """Membership inference against the first update of a small device: in the clear, in a sum, and with noise.

    Args:
        subject: a scenario's federation; its own defence is the last of the list, if it is private.
        examples: that the device holds; as many others are to be told from them.
        models: targets, each a shadow model for the others.
        local_epochs: of the undefended device.
        seed: by default the scenario's.
        events: hears of every pipeline.

    Raises:
        ConfigError: the devices hold too little.
    """
    seed = subject.scenario.seed if seed is None else seed
    pool, rest = _shuffled(subject, 2 * examples, np.random.default_rng([seed, 0x3A]))
    others = _dealt(rest, len(subject.data.devices) - 1, examples)
    clear = undefended(subject.task, local_epochs=local_epochs, batch_size=subject.task.batch_size)
    model, parameters = _model(subject.task)
    found = []
    for name, task, company in _pipelines(subject, clear, others):
        watch = Stopwatch()
        observer = _observer(subject, task, company)
        rng = np.random.default_rng([seed, 0x3B])  # the same halves for all
        found.append(
            membership.attack(
                name,
                model=model,
                load=parameters.load,
                weights=subject.weights,
                observe=observer.update,
                pool=pool,
                models=models,
                rng=rng,
            )
        )
        events(StepDone(f"membership: {name}", watch.lap()))
    return found


def invert_gradients(
    subject: Subject,
    *,
    images: int = 8,
    batch: int = 1,
    steps: int = 300,
    restarts: int = 2,
    seed: int | None = None,
    events: EventSink = ignore,
) -> Inversion:
    """Gradient inversion of updates of one step: in the clear, in a sum, and with noise.

    Args:
        subject: a scenario's federation over images; its own defence is the last of the list, if it is private.
        images: to reconstruct, a multiple of `batch`.
        batch: examples of the device that is attacked.
        steps, restarts: of the search, see `inversion.by_matching`.
        seed: by default the scenario's.
        events: hears of every pipeline.

    Raises:
        ConfigError: the examples are no images, or too few.
    """
    shape = subject.task.input_shape
    if len(shape) != 3:
        raise ConfigError(
            f"examples of shape {list(shape)} are no images [channels, height, width]: attack a scenario over images"
        )
    if images < 1 or batch < 1 or images % batch:
        raise ConfigError(f"{images} images in batches of {batch} were asked for: wanted a multiple of the batch")
    seed = subject.scenario.seed if seed is None else seed
    chosen, rest = _shuffled(subject, images, np.random.default_rng([seed, 0x4A]))
    others = _dealt(rest, len(subject.data.devices) - 1, 32)
    clear = undefended(subject.task, local_epochs=1, batch_size=max(map(len, (chosen, *others))))
    model, parameters = _model(subject.task)
    parameters.load(subject.weights)
    fake_quantization(model, enabled=False)  # the attack needs second derivatives
    labels, found = chosen.y.reshape(-1, batch), []
    for name, task, company in _pipelines(subject, _certain(clear), others):
        watch = Stopwatch()
        observer = _observer(subject, _certain(task), company)
        trials = [chosen[np.arange(start, start + batch)] for start in range(0, images, batch)]
        gradients = np.stack([-observer.update(trial, number) for number, trial in enumerate(trials)])
        rng = np.random.default_rng([seed, 0x4B])
        made = inversion.by_matching(model, gradients, labels, shape, rng=rng, steps=steps, restarts=restarts)
        flat = made.reshape(chosen.x.shape)
        flat = _paired(chosen.x, flat, batch)
        found.append(Reconstruction(name, flat, inversion.resemblance(chosen.x, flat, rest.x)))
        events(StepDone(f"inversion: {name}", watch.lap()))
    return Inversion(chosen.x, tuple(found))


def _pipelines(
    subject: Subject, clear: Task, others: tuple[Examples, ...]
) -> list[tuple[str, Task, tuple[Examples, ...]]]:
    """Name, task and company of each pipeline."""
    found: list[tuple[str, Task, tuple[Examples, ...]]] = [
        ("update in the clear", clear, ()),
        (f"secure sum of {len(others) + 1}, no noise", clear, others),
    ]
    budget = subject.task.budget
    if budget is not None:
        mode = mode_of(subject.task)
        found.append((f"{_BEHIND[mode]}, epsilon {budget.epsilon:g}", subject.task, () if mode == "local" else others))
    return found


def _certain(task: Task) -> Task:
    """The same with the device's examples certain to be in one step: the best that an attacker can hope for."""
    if task.dp is None:
        return task
    return replace(task, momentum=0.0, dp=replace(task.dp, sample_rate=1.0, steps=1))


def _observer(subject: Subject, task: Task, others: tuple[Examples, ...]) -> Observer:
    return Observer(task, subject.weights, range_fraction=subject.scenario.delta.range_fraction, others=others)


def _model(task: Task) -> tuple[nn.Module, FlatParameters]:
    model = build_model(task)
    return model, FlatParameters(model)


def _shuffled(subject: Subject, count: int, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """`count` of the devices' examples at random, and all others."""
    devices = subject.data.devices
    everything = Examples(np.concatenate([one.x for one in devices]), np.concatenate([one.y for one in devices]))
    if len(everything) < 2 * count:
        raise ConfigError(
            f"the devices hold {len(everything)} examples, and the attack wants {2 * count}: ask for fewer"
        )
    order = rng.permutation(len(everything))
    return everything[order[:count]], everything[order[count:]]


def _dealt(rest: Examples, devices: int, each: int) -> tuple[Examples, ...]:
    """The other devices' examples, `each` or what there is."""
    if len(rest) < devices:
        raise ConfigError(
            f"{len(rest)} examples are left for the {devices} devices that are not attacked: ask for fewer"
        )
    each = max(1, min(each, len(rest) // max(1, devices)))
    return tuple(rest[np.arange(number * each, (number + 1) * each)] for number in range(devices))


def _paired(originals: Float32, found: Float32, batch: int) -> Float32:
    """Reconstructions of one batch come in any order: each original gets the one that is most like it."""
    if batch == 1:
        return found
    from scipy.optimize import linear_sum_assignment

    paired = np.empty_like(found)
    for start in range(0, len(found), batch):
        block = slice(start, start + batch)
        cost = np.array([[-inversion.similarity(a, b) for b in found[block]] for a in originals[block]])
        _, order = linear_sum_assignment(cost)
        paired[block] = found[block][order]
    return paired
