"""Audits of a scenario's own mechanism, in one run each: canaries in, the product's code, canaries looked for.

The auditor is the strongest that the promise is made against: it sees every release (with noise on the device each
step; with noise in the sum the sum before it is taken modulo 2^k, with the noise of `honest` devices alone), knows all
examples but the canaries' coins, and chose the canaries. What it finds is a lower bound on what is promised.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, StepDone, ignore
from fedmesh.privacy.noise import KeyedNoise, NoiseSource
from fedmesh.privacy.settings import Mode
from fedmesh.simulation.laboratory import device_audit, sum_audit
from fedmesh.simulation.laboratory.broken import SOUND, UNDEFENDED, Fault
from fedmesh.simulation.laboratory.canaries import Canaries, Finding, judge, plant
from fedmesh.simulation.laboratory.rehearsal import Rehearsal
from fedmesh.simulation.laboratory.subject import Subject
from fedmesh.simulation.laboratory.timing import Stopwatch

__all__ = ["Audited", "Plan", "audit", "audit_run", "claimed_epsilon", "default_canaries", "mode_of", "plan_of"]

_DEFAULT_CANARIES = {"local": 4_000, "shared": 2_000, "client": 1_000, "central": 1_000}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a mechanism is audited: where canaries fit, and what one round of it promises.

    Attributes:
        disjoint: canaries of two devices meet in what is seen.
        places: the coordinates that a canary can have.
        scores: of a run's canaries, float64 [m], in units of the promised clip.
        effect: of a canary in one round, in units of the clip; noise: variance of a round, likewise.
    """

    disjoint: bool
    places: Callable[[Subject], NDArray[np.int64]]
    scores: Callable[[Rehearsal], NDArray[np.float64]]
    effect: float
    noise: float


@dataclass(frozen=True, slots=True)
class Audited:
    """A finding, and what it was found by: scores float64 [m], in units of the clip, and coins bool [m]."""

    finding: Finding
    scores: NDArray[np.float64]
    included: NDArray[np.bool_]


def audit(
    subject: Subject,
    *,
    canaries: int | None = None,
    rounds: int | None = None,
    faults: tuple[Fault, ...] = (),
    confidence: float = 0.95,
    seed: int | None = None,
    events: EventSink = ignore,
) -> list[Audited]:
    """Audits the mechanism as configured, without its noise, and with each of `faults`.

    Args:
        subject: a private scenario's.
        canaries: how many; by default as many as take about half a minute.
        rounds: to audit, by default all of the scenario; the claim is that of as many.
        faults: see `broken`.
        confidence: of the lower bounds.
        seed: of coins, places and noise; by default the scenario's.
        events: hears of every run.

    Returns:
        What was found of each, the first of the mechanism as configured.

    Raises:
        ConfigError: the scenario promises nothing, or has not as many weights as there are canaries.
    """
    seed = subject.scenario.seed if seed is None else seed
    rounds = subject.scenario.rounds if rounds is None else rounds
    mode, plan = mode_of(subject.task), plan_of(subject.task)
    devices, places = len(subject.data.devices), plan.places(subject)
    count = default_canaries(mode, devices, len(places)) if canaries is None else canaries
    rng = np.random.default_rng([seed, 0xA0])
    planted = plant(count, devices=devices, places=places, disjoint=plan.disjoint, rng=rng)
    findings = []
    for fault in (SOUND, UNDEFENDED, *faults):
        watch = Stopwatch()
        findings.append(audit_run(subject, planted, fault, rounds=rounds, confidence=confidence, seed=seed))
        events(StepDone(f"canaries: {fault.name}", watch.lap()))
    return findings


def audit_run(
    subject: Subject, canaries: Canaries, fault: Fault, *, rounds: int, confidence: float = 0.95, seed: int = 0
) -> Audited:
    """Audits one run of the mechanism with `fault`; arguments and errors as for `audit`."""
    task, plan = subject.task, plan_of(subject.task)
    budget = task.budget
    assert budget is not None

    def noise(*labels: str | int) -> NoiseSource:
        return KeyedNoise(seed, "audit", fault.name, *labels)

    with np.errstate(over="ignore", invalid="ignore"):  # without clip and noise a model may diverge
        scores = plan.scores(Rehearsal(subject, fault.applied(task), canaries, fault, rounds, noise))
    finding = judge(
        fault.name,
        scores,
        canaries.included,
        effect=rounds * plan.effect,
        noise=(rounds * plan.noise) ** 0.5,
        delta=budget.delta,
        epsilon=None if fault is UNDEFENDED else claimed_epsilon(task, rounds),
        confidence=confidence,
    )
    return Audited(finding, scores, canaries.included)


def mode_of(task: Task) -> Mode:
    """Who adds the noise, and whom it protects. Raises: ConfigError: the task promises nothing."""
    if task.mode is None:
        raise ConfigError(
            f"the scenario {task.name} promises no privacy, so there is nothing to audit: turn privacy.enabled on "
            "(--set privacy.enabled=true)"
        )
    return task.mode


def plan_of(task: Task) -> Plan:
    """How the task's mechanism is audited. Raises: ConfigError: the task promises nothing."""
    mode_of(task)
    if task.dp is not None:
        dp = task.dp
        variance = dp.steps * dp.noise_multiplier**2
        return Plan(False, device_audit.places, device_audit.scores, dp.steps * dp.sample_rate, variance)
    assert task.summed is not None
    variance = task.summed.noise_multiplier**2
    if task.summed.level == "example":
        return Plan(True, sum_audit.places, sum_audit.example_scores, 1.0, variance)
    return Plan(True, sum_audit.places, sum_audit.client_scores, 1.0, variance)


def default_canaries(mode: Mode, devices: int, size: int) -> int:
    """As many canaries as half a minute allows, and at most as there is room for."""
    room = size * devices if mode == "local" else size
    return min(_DEFAULT_CANARIES[mode], room)


def claimed_epsilon(task: Task, rounds: int) -> float:
    """What the ledgers say after `rounds` rounds, at the task's delta."""
    from fedmesh.privacy.accountant import spent

    budget = task.budget
    assert budget is not None
    if task.summed is not None:
        events = replace(task.summed, quantile=None).events()  # the canaries test the values, not the quantile's bits
    else:
        assert task.dp is not None
        events = (task.dp.event(),)
    return spent([replace(event, count=event.count * rounds) for event in events], budget.delta)
