"""What all members of a run of gossip averaging know of it: public, fixed before the first step, alike everywhere."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip.accounting import fewest_in_sum, threshold_for
from fedmesh.mesh.gossip.dealing import deal, group_of
from fedmesh.mesh.gossip.grid import Grid
from fedmesh.mesh.gossip.rules import Rule
from fedmesh.secagg.header import SessionHeader
from fedmesh.wire import dumps

__all__ = ["RUN_BYTES", "Run"]

RUN_BYTES = 16
MAX_MEMBERS = 1024
_FIRST_ATTEMPT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        id: 16 random bytes. task: what is learned; sessions are named by both.
        members: names of all. smallest: of a group, see `deal`.
        grid: of the weights.
        wait_s: for members to report, and for each step of secure aggregation.
        step_s: for a whole step, after training.
        train_s: so much longer the members of a group wait for those of it that still train.

    Raises:
        ConfigError: a value is out of range, or the members are too few for a group.
    """

    id: bytes
    task: str
    members: tuple[str, ...]
    smallest: int
    grid: Grid
    wait_s: float
    step_s: float
    train_s: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if len(self.id) != RUN_BYTES or not 0 < len(self.task) <= 128:
            raise ConfigError(f"a run has an id of {RUN_BYTES} bytes and a task of 1 to 128 characters")
        if len(set(self.members)) != len(self.members) or len(self.members) > MAX_MEMBERS:
            raise ConfigError(f"a run has up to {MAX_MEMBERS} members, each once; got {len(self.members)}")
        if self.wait_s <= 0 or self.train_s < 0 or self.wait_s + self.train_s >= self.step_s:
            raise ConfigError(
                f"wait_s is {self.wait_s}, train_s {self.train_s} and step_s {self.step_s}: wanted 0 < wait_s and "
                "wait_s + train_s < step_s"
            )
        deal(self.id, 0, self.members, self.smallest)

    def group(self, step: int, name: str) -> tuple[str, ...]:
        """The group of `name` in a step, in the order in which its members lead."""
        return group_of(deal(self.id, step, self.members, self.smallest), name)

    def can_sum(self, group: Collection[str], present: Collection[str], rule: Rule) -> bool:
        """Whether those of a group that are present are enough for a sum."""
        count = len(set(group) & set(present))
        return count >= fewest_in_sum(count, len(group), rule.fewest)

    def header(self, step: int, cohort: Sequence[str], rule: Rule) -> SessionHeader:
        """The session of those members of a group that are here: everybody makes it from what it knows itself.

        Args:
            step: of the run. cohort: of one group, in its order, at least one. rule: of what goes into the sum.

        Raises:
            SecAggError: there are too few for a session.
        """
        group = len(self.group(step, cohort[0]))
        header = SessionHeader(
            task=f"{self.task}/gossip/{self.id.hex()}",
            round=step,
            attempt=_FIRST_ATTEMPT,
            cohort=tuple(cohort),
            threshold=threshold_for(len(cohort), group),
            min_cohort=fewest_in_sum(len(cohort), group, rule.fewest),
            ring_bits=rule.ring_bits(len(cohort)),
            length=rule.length,
            scale_hash=hashlib.sha256(dumps([self.grid.unit, self.grid.bits])).digest(),
            privacy=None if rule.privacy is None else dict(rule.privacy),
        )
        header.check()
        return header
