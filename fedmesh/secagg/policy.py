"""What a device insists on before it takes part in a session, whoever asks: its local floor.

The aggregator writes the header, so nothing in it is believed: a session with a lower threshold, a smaller cohort, a
narrower ring or less noise than the device's own policy allows is refused before a key is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmesh import wire
from fedmesh.errors import SecAggError
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.identity import Roster

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The least that a device accepts. None means that the device does not look at it.

    Attributes:
        smallest_cohort, largest_cohort: members of a session; larger federations are split into groups.
        colluders: members C that may be in league with the aggregator without learning more than the sum: the threshold
            has to satisfy 2t > n + C, so that no two different sets of survivors get t signatures, and no two groups of
            devices reveal the two secrets of one. None: C = ceil(n/3) - 1.
        min_survivors: fewest inputs in a sum, beyond the header's own threshold.
        value_bits: the ring must have room for values of this width at the header's own n and weight cap.
        max_ring_bits, max_length, max_weight_cap: bounds on what a header can make the device compute and keep.
        modular: inputs are taken modulo the ring, as a noise mechanism with a bound of its own wants it: sums may wrap.
        min_noise_multiplier, max_clip: of the header's ``privacy``, which must then name them.
        aggregator: name on the roster whose sessions the device takes part in, and nobody else's.
        successors: names on the roster that may ask for the shares in the place of a session's aggregator, once enough
            devices have signed the survivors; nobody else, and for nothing else. In a mesh, the members.
        privacy, layout_hash, scale_hash, model_hash: must be exactly these; the device knows them of its own.
    """

    smallest_cohort: int = 4
    largest_cohort: int = 128
    colluders: int | None = None
    min_survivors: int = 0
    value_bits: int = 1
    max_ring_bits: int = 62
    max_length: int = 1 << 28
    max_weight_cap: int = 1 << 31
    modular: bool = False
    min_noise_multiplier: float | None = None
    max_clip: float | None = None
    aggregator: str | None = None
    successors: frozenset[str] = frozenset()
    privacy: Any = None
    layout_hash: bytes | None = None
    scale_hash: bytes | None = None
    model_hash: bytes | None = None

    def check(self, header: SessionHeader, roster: Roster, name: str) -> None:
        """Whether device `name` takes part.

        Raises:
            SecAggError: with the code ``policy``, ``ring``, ``identity`` or ``malformed``; it says what was asked and
                what the device insists on.
        """
        header.check()
        self._check_members(header, roster, name)
        self._check_threshold(header)
        self._check_ring(header)
        self._check_privacy(header)
        if self.layout_hash is not None and header.layout_hash != self.layout_hash:
            raise SecAggError("the session is about another model layout than this device's", code="policy")
        if header.model_hash is not None and header.scale_hash is not None:
            self.check_input(header.model_hash, header.scale_hash)

    def check_input(self, model_hash: bytes, scale_hash: bytes) -> None:
        """Raises: SecAggError: the inputs are to belong to another model or other scales than this device's."""
        if self.model_hash is not None and model_hash != self.model_hash:
            raise SecAggError("the session is for another model than this device trained on", code="policy")
        if self.scale_hash is not None and scale_hash != self.scale_hash:
            raise SecAggError("the session is for other scales than this device quantizes with", code="policy")

    def _check_members(self, header: SessionHeader, roster: Roster, name: str) -> None:
        members = len(header.cohort)
        if name not in header.cohort:
            raise SecAggError(f"{name!r} is not in the cohort that it is asked to join", code="identity")
        strangers = [member for member in header.cohort if member not in roster]
        if strangers:
            raise SecAggError(
                f"{len(strangers)} members of the cohort are not on this device's roster, first {strangers[0]!r:.80}",
                code="identity",
            )
        if not self.smallest_cohort <= members <= self.largest_cohort:
            raise SecAggError(
                f"a cohort of {members} was announced; this device takes part among {self.smallest_cohort} to "
                f"{self.largest_cohort}",
                code="policy",
            )

    def _check_threshold(self, header: SessionHeader) -> None:
        members, threshold = len(header.cohort), header.threshold
        colluders = header.colluders_for(members) if self.colluders is None else self.colluders
        if 2 * threshold <= members + colluders:
            raise SecAggError(
                f"the threshold {threshold} of {members} members is too low: against {colluders} colluding members it "
                f"has to be at least {(members + colluders) // 2 + 1}",
                code="policy",
            )
        floor = max(threshold, self.min_survivors)
        if header.min_cohort < floor:
            raise SecAggError(
                f"sums of {header.min_cohort} inputs were announced; this device wants at least {floor} in a sum",
                code="policy",
            )

    def _check_ring(self, header: SessionHeader) -> None:
        bits, members, cap = header.ring_bits, len(header.cohort), header.weight_cap
        if bits > self.max_ring_bits or header.length > self.max_length or cap > self.max_weight_cap:
            raise SecAggError(
                f"a session of {header.length} elements, {bits} bits and weights up to {cap} was announced; this "
                f"device takes {self.max_length}, {self.max_ring_bits} and {self.max_weight_cap}",
                code="policy",
            )
        if header.ring.largest_value(members, cap) < 1 << (self.value_bits - 1):
            raise SecAggError(
                f"a ring of {bits} bits overflows: {members} members with weights up to {cap} and values of "
                f"{self.value_bits} bits need {header.ring.bits_for(members, cap, self.value_bits)}",
                code="ring",
            )

    def _check_privacy(self, header: SessionHeader) -> None:
        if self.privacy is not None and _canonical(header.privacy) != _canonical(self.privacy):
            raise SecAggError("the session announces other privacy parameters than this device's task", code="policy")
        facts = header.privacy if isinstance(header.privacy, Mapping) else {}
        if self.min_noise_multiplier is not None:
            noise = _number(facts, "noise_multiplier")
            if not noise >= self.min_noise_multiplier:
                raise SecAggError(
                    f"a noise multiplier of {noise} was announced, this device wants {self.min_noise_multiplier} or "
                    "more",
                    code="policy",
                )
        if self.max_clip is not None:
            clip = _number(facts, "clip")
            if not clip <= self.max_clip:
                raise SecAggError(f"a clip of {clip} was announced, this device allows {self.max_clip}", code="policy")


def _number(facts: Mapping[str, Any], name: str) -> float:
    """The named fact, NaN (which fails every comparison) when it is missing or no number."""
    value = facts.get(name)
    return float("nan") if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _canonical(facts: Any) -> bytes:
    return wire.dumps(facts)
