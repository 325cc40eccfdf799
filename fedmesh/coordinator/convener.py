"""Calls sessions of secure aggregation: settings, headers, groups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedmesh.coordinator.attempt import Attempt
from fedmesh.coordinator.groups import SMALLEST_GROUP, deal
from fedmesh.coordinator.session import Session
from fedmesh.errors import ConfigError, QuorumError
from fedmesh.machine import cores
from fedmesh.privacy.summed import SumSettings
from fedmesh.secagg import Aggregator, Identity, MetricCodec, Ring, Roster, SessionHeader
from fedmesh.types import Layout

__all__ = ["Belongs", "Convener", "SecureSettings", "counter"]

Belongs = tuple[bytes, bytes]
"""Hash of the model and hash of the scales that the inputs belong to."""

_LARGEST_GROUP = 1024


@dataclass(frozen=True, slots=True)
class SecureSettings:
    """How a federation sums.

    Attributes:
        task_name: of every header; devices hold their stores of rounds by it.
        bits: width of an update's integers.
        weight_cap: largest weight of a device; 1 weights all the same.
        group_size: devices in a session, 4 to 1,024; more are dealt into groups, see `deal`.
        attempts: times that a round is tried before it has failed; each costs the devices their training again if the
            one before came that far.
        overlap: exchange the keys of the next round during this one.
        reported: metrics that travel inside the sum.
        privacy: public facts about the devices' noise, as plain data; every device compares them with its own.
        summed: of a task whose noise is complete in the sum only; it says the length, the ring and the smallest sum.
        rounds: number of the last round; None: not known, then nothing is prepared ahead.
        quorum: fewest inputs of a round, over all groups; None: the strategy's own, or 1.
        seed: makes the dealing of groups a function of the round; None deals by the operating system's randomness.

    Raises:
        ConfigError: a setting is out of range.
    """

    task_name: str
    bits: int
    weight_cap: int = 1
    group_size: int = 128
    attempts: int = 3
    overlap: bool = True
    reported: tuple[str, ...] = ()
    privacy: Any = None
    summed: SumSettings | None = None
    rounds: int | None = None
    quorum: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _check("group_size", self.group_size, SMALLEST_GROUP <= self.group_size <= _LARGEST_GROUP, "4 to 1024")
        _check("attempts", self.attempts, self.attempts >= 1, "1 or more")
        _check("weight_cap", self.weight_cap, self.weight_cap >= 1, "1 or more")
        _check("quorum", self.quorum, self.quorum is None or self.quorum >= 1, "1 or more")
        _check("bits", self.bits, 2 <= self.bits <= 32, "2 to 32")

    def length(self, layout: Layout) -> int:
        """Elements of an input."""
        return layout.size + self.metrics.length if self.summed is None else self.summed.length

    def ring_bits(self, members: int) -> int:
        """Of a session of `members` devices."""
        return Ring.bits_for(members, self.weight_cap, self.bits) if self.summed is None else self.summed.bits

    @property
    def smallest_sum(self) -> int:
        """Inputs below which no sum is taken, besides what the threshold wants."""
        return 0 if self.summed is None else self.summed.smallest_sum

    @property
    def metrics(self) -> MetricCodec:
        """How the reported metrics are written behind an update's integers."""
        return MetricCodec(self.reported, self.bits)


class Convener:
    """Opens the sessions of a round.

    Args:
        identity: the server's; signs what it publishes.
        roster: devices and server.
        settings: of the federation.
        layout: of the model.
        attempts: round -> number of its next attempt, never the same twice, not even after a restart.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        settings: SecureSettings,
        layout: Layout,
        attempts: Callable[[int], int],
    ) -> None:
        self.settings = settings
        self._identity = identity
        self._roster = roster
        self._layout = layout
        self._attempts = attempts

    def fewest(self, quorum: int) -> int:
        """Devices below which a round is not worth beginning: for the quorum, or for the noise in a sum."""
        return max(SMALLEST_GROUP, quorum, self.settings.smallest_sum)

    def open(
        self, number: int, names: Mapping[int, str], belongs: Belongs | None, *, quorum: int, tried: int = 0
    ) -> Attempt:
        """The sessions of a new attempt at round `number` among the devices in `names` (node id -> name).

        Args:
            number: the round.
            names: at least `SMALLEST_GROUP`.
            belongs: None leaves it open until `Attempt.bind`.
            quorum: fewest inputs over all groups.
            tried: attempts before this one; another deals other groups.

        Raises:
            QuorumError: a group would be smaller than a sum has to be.
        """
        seed = self.settings.seed
        groups = deal(names, self.settings.group_size, key=None if seed is None else (seed, number, tried))
        smallest, wanted = min(map(len, groups)), self.settings.smallest_sum
        if smallest < wanted:
            raise QuorumError(
                f"{len(names)} devices are left, in groups of {smallest} and more; the noise in a sum is sized for "
                f"{wanted}: ask more devices, or plan for more drop-outs (privacy.dropouts)",
                arrived=smallest,
                wanted=wanted,
            )
        attempt = self._attempts(number)
        sessions = []
        for index, group in enumerate(groups):
            members = {node: names[node] for node in group}
            share = -(-quorum * len(group) // len(names))
            header = self._header(number, attempt, tuple(sorted(members.values())), belongs, share)
            aggregator = Aggregator(header, self._identity, self._roster, threads=cores())
            sessions.append(Session(index, header, aggregator, members))
        return Attempt(sessions)

    def _header(
        self, number: int, attempt: int, cohort: tuple[str, ...], belongs: Belongs | None, share: int
    ) -> SessionHeader:
        settings, members = self.settings, len(cohort)
        threshold = SessionHeader.threshold_for(members)
        model_hash, scale_hash = (None, None) if belongs is None else belongs
        return SessionHeader(
            task=settings.task_name,
            round=number,
            attempt=attempt,
            cohort=cohort,
            threshold=threshold,
            min_cohort=max(threshold, min(members, share), settings.smallest_sum),
            ring_bits=settings.ring_bits(members),
            length=settings.length(self._layout),
            weight_cap=settings.weight_cap,
            layout_hash=self._layout.digest,
            scale_hash=scale_hash,
            model_hash=model_hash,
            privacy=settings.privacy,
        )


def counter() -> Callable[[int], int]:
    """Attempt numbers that are forgotten with the process: for a federation without a journal."""
    given: dict[int, int] = {}

    def following(number: int) -> int:
        given[number] = given.get(number, 0) + 1
        return given[number]

    return following


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise ConfigError(f"secure aggregation's {name} is {value!r}, wanted {wanted}")
