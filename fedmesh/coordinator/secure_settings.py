"""How a federation sums: what every session of it has in common, whoever leads it. Loads no Flower."""

from dataclasses import dataclass
from typing import Any

from fedmesh.coordinator.groups import SMALLEST_GROUP
from fedmesh.errors import ConfigError
from fedmesh.privacy.summed import SumSettings
from fedmesh.secagg import MetricCodec, Ring, SessionHeader
from fedmesh.types import Layout

__all__ = ["Belongs", "SecureSettings"]

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

    def header(
        self,
        number: int,
        attempt: int,
        cohort: tuple[str, ...],
        layout: Layout,
        belongs: Belongs | None,
        *,
        fewest: int,
    ) -> SessionHeader:
        """Of one session.

        Args:
            number: the round. attempt: at it. cohort: names, sorted.
            layout: of the model. belongs: None leaves it open.
            fewest: inputs that its sum wants, besides what is never gone below.
        """
        members = len(cohort)
        threshold = SessionHeader.threshold_for(members)
        model_hash, scale_hash = (None, None) if belongs is None else belongs
        return SessionHeader(
            task=self.task_name,
            round=number,
            attempt=attempt,
            cohort=cohort,
            threshold=threshold,
            min_cohort=max(threshold, min(members, fewest), self.smallest_sum),
            ring_bits=self.ring_bits(members),
            length=self.length(layout),
            weight_cap=self.weight_cap,
            layout_hash=layout.digest,
            scale_hash=scale_hash,
            model_hash=model_hash,
            privacy=self.privacy,
        )


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise ConfigError(f"secure aggregation's {name} is {value!r}, wanted {wanted}")
