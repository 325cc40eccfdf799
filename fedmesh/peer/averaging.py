"""A device's part in a run of gossip averaging: what it agrees to, its training in a process apart, its publication.

The sums are not here: they are the run's (`averaging_run`), in the process of the member itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedmesh.client.averaging import AveragingTerms, rule_of
from fedmesh.configuration import PeerConfig
from fedmesh.errors import ConfigError, DecodeError, RoundError
from fedmesh.fleet.kit import Kit
from fedmesh.mesh.gossip import Codes, Prepared, Rule, group_sizes
from fedmesh.mesh.rounds import Charter
from fedmesh.peer.workshop import Workshop
from fedmesh.secagg import Policy

__all__ = ["Averager", "check_groups", "terms_of"]


def terms_of(charter: Charter, scenario: bytes) -> tuple[Kit, AveragingTerms]:
    """Kit and settings of a run. Raises: ConfigError: they cannot be read, or are not those of the charter."""
    try:
        kit = Kit.from_bytes(scenario)
    except DecodeError as error:
        raise ConfigError(f"the run of {charter.task!r} cannot be read: {error}") from error
    strategy = kit.scenario.get("strategy")
    options = strategy.get("options") if isinstance(strategy, Mapping) else None
    terms = AveragingTerms.of(options if isinstance(options, Mapping) else {})
    if terms.group != charter.fewest:
        raise ConfigError(
            f"the run of {charter.task!r} has groups of {terms.group} by its scenario, {charter.fewest} by its charter"
        )
    return kit, terms


def check_groups(charter: Charter, floor: Policy) -> None:
    """Whether an operator's tables allow sessions as small, and as large, as the groups of a run.

    Raises:
        ConfigError: they do not.
    """
    least, most = group_sizes(len(charter.members), charter.fewest)
    if least < floor.smallest_cohort or most > floor.largest_cohort or least < floor.min_survivors:
        raise ConfigError(
            f"the run of {charter.task!r} has groups of {least} to {most}, and [secure_aggregation] allows cohorts of "
            f"{floor.smallest_cohort} to {floor.largest_cohort} and sums of {floor.min_survivors} or more"
        )


@dataclass(frozen=True, slots=True)
class Averager:
    """See `fedmesh.peer.learning.Averaging`."""

    config: PeerConfig
    kit: Kit
    terms: AveragingTerms
    floor: Policy
    workshop: Workshop
    resting: Callable[[], str]

    @property
    def rule(self) -> Rule:
        """Of the sums. Raises: ConfigError: the run has a kind of privacy that this averaging has not."""
        return rule_of(self.kit.read_task(), self.terms.grid, self.kit.layout.size)

    @property
    def publishes(self) -> bool:
        """Whether this member signs models."""
        return self.config.publish is not None

    def start(self, weights: bytes) -> Codes:
        """The model that the run begins with. Raises: ConfigError: it is another one's."""
        if len(weights) != 4 * self.kit.layout.size:
            raise ConfigError(f"the run begins with {len(weights)} bytes, and its model has {4 * self.kit.layout.size}")
        return self.terms.start(np.frombuffer(weights, "<f4").astype(np.float32))

    async def prepare(self, step: int, codes: Codes) -> Prepared | None:
        """Pays and trains; None: it cannot pay. Raises: RoundError: it came to nothing."""
        made = await self.workshop.average(step, codes.astype("<i8").tobytes())
        if made is None:
            return None
        vector, left_out = (np.frombuffer(part, "<i8").astype(np.int64) for part in made)
        if len(vector) != self.rule.length or len(left_out) != len(codes):
            raise RoundError(f"step {step} was trained, and what came of it is of another model")
        return Prepared(vector, left_out)

    async def deliver(self, step: int, codes: Codes, **facts: Any) -> Mapping[str, float]:
        """Has the model of a step signed in this member's repository; its figures. Raises: RoundError: it was not."""
        model = self.terms.grid.weights(codes).astype("<f4").tobytes()
        return await self.workshop.deliver(step, model, averaged=True, epsilon=None, **facts)

    async def aclose(self) -> None:
        """Ends the process."""
        self.workshop.close()
