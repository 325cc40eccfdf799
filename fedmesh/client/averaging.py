"""Gossip averaging of one task: its settings as a run carries them, and a device's training in it. Needs numpy alone.

A device trains as in any round; what it puts into the sum of its group is not the change but the whole model, on the
run's grid (`fedmesh.mesh.gossip`). The ledger is charged before the data are looked at, under the task's name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import numpy as np

from fedmesh.client.assignment import Assignment, Fitted, check_examples
from fedmesh.client.randomness import noise_of, release_of, rounding
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, LedgerError
from fedmesh.mesh.gossip import Codes, Grid, Mixing, PlainMixing, PlainRule, Rule, SharedMixing, SharedRule
from fedmesh.types import Examples, Float32, Layout, Ledger

__all__ = ["AveragingTerms", "AveragingTrainer", "check_task", "mixing_of", "rule_of", "trainer_of"]


@dataclass(frozen=True, slots=True)
class AveragingTerms:
    """Settings of a run that all members have: the smallest group, and the grid that weights are on."""

    group: int
    grid: Grid

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Those in a scenario's ``[strategy.options]``, with nothing left open. Raises: ConfigError: they are not."""
        match options:
            case {"group": int(group), "grid_bits": int(bits), "unit": float() | int() as unit}:
                return cls(group, Grid(float(unit), bits))
        raise ConfigError(
            f"a run of gossip averaging says {sorted(options)} of its groups: wanted group, grid_bits and unit"
        )

    def start(self, weights: Float32) -> Codes:
        """The public start on the grid, the same for all, int64 [P]. Raises: ConfigError: it does not fit the grid."""
        units = np.rint(weights.astype(np.float64) / self.grid.unit)
        if not np.isfinite(units).all() or np.abs(units).max(initial=0) > self.grid.largest:
            raise ConfigError(
                f"the public start has weights beyond +-{self.grid.largest * self.grid.unit:g}, where the grid ends: "
                "raise strategy.options.unit, or leave it at 0"
            )
        return units.astype(np.int64)


class AveragingTrainer(Protocol):
    """What of a client app's trainer is used here."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's arrays."""
        ...

    def fit(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Fitted:
        """Pays and trains, without encoding."""
        ...

    def rows(self, assignment: Assignment, examples: Examples) -> Iterator[Float32]:
        """The gradient of each example at the assignment's weights, rows [b, P] at a time."""
        ...


def trainer_of(app: object, name: str) -> AveragingTrainer:
    """What trains in a client app. Raises: ConfigError: it shows nothing that does."""
    trainer = getattr(app, "trainer", None)
    if not all(hasattr(trainer, part) for part in ("layout", "fit", "rows")):
        raise ConfigError(
            f"the client {name!r} shows no trainer with layout, fit and rows, which gossip averaging trains with: "
            "choose another client.name"
        )
    return cast("AveragingTrainer", trainer)


def check_task(task: Task) -> None:
    """Raises: ConfigError: the task has a kind of privacy that gossip averaging has not, or weights its devices."""
    if task.mode not in {None, "local", "shared"}:
        raise ConfigError(
            f"privacy.mode is {task.mode!r}, and gossip averaging has 'local' (all noise on the device) and 'shared' "
            "(a share of it in each group's sum): choose one of these"
        )
    if not task.secure_aggregation or task.weighting != "uniform" or task.error_feedback:
        raise ConfigError(
            "gossip averaging is of secure sums in which all weigh alike, and carries nothing over: turn "
            "secure_aggregation.enabled on, delta.error_feedback off, and set strategy.weighting to 'uniform'"
        )


def rule_of(task: Task, grid: Grid, size: int) -> Rule:
    """What all members know of sums of `task`, whose model has `size` weights. Raises: ConfigError: as `check_task`."""
    check_task(task)
    if task.summed is None:
        return PlainRule(grid, size, task.dp)
    if task.summed.size != size:
        raise ConfigError(f"the model has {size} weights, and the noise of its sums was made for {task.summed.size}")
    return SharedRule(grid, task.summed)


def mixing_of(
    task: Task, trainer: AveragingTrainer, examples: Examples, *, grid: Grid, device: int, ledger: Ledger | None
) -> Mixing:
    """How a device makes its input.

    Args:
        task: of the run. trainer: of the task. examples: this device's.
        grid: of the run. device: its number, where draws are repeatable.
        ledger: pays; None for a task without privacy.

    Raises:
        ConfigError: as `check_task`, or the examples are not of the task.
        LedgerError: the task is private, and there is no ledger.
    """
    check_task(task)
    check_examples(task, examples)
    if task.budget is not None and ledger is None:
        raise LedgerError(f"task {task.name} trains under a privacy budget: give the device a ledger to charge")

    def at(step: int, weights: Float32) -> Assignment:
        return Assignment(step, device, weights)

    if task.summed is not None:
        assert ledger is not None
        settings = task.summed

        def noise(step: int) -> Any:
            return noise_of(task, release_of(task, at(step, np.zeros(0, np.float32))))

        return SharedMixing(
            grid,
            settings,
            lambda step, weights: trainer.rows(at(step, weights), examples),
            noise=noise,
            ledger=ledger,
            label=task.name,
        )

    def train(step: int, weights: Float32) -> Float32:
        return weights + trainer.fit(at(step, weights), examples, ledger=ledger).delta

    return PlainMixing(
        grid,
        trainer.layout.size,
        train,
        rounding=lambda step: rounding(task, step, device),
        dp=task.dp,
        train_pays=task.dp is not None,
    )
