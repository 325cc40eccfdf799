"""The parameters of SWIM and Lifeguard, under the names of the papers where they have one."""

import math
from dataclasses import dataclass

from fedmesh.errors import ConfigError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """All times are seconds.

    Attributes:
        probe_s: the protocol period: one member is probed in each.
        probe_timeout_s: without an answer for so long, others are asked to probe it; less than `probe_s`.
        indirect: k, how many are asked.
        retransmit: lambda; a statement is passed on lambda * log10(n) times, rounded up.
        suspicion_alpha: the shortest suspicion lasts alpha * log10(n) periods.
        suspicion_beta: the longest lasts beta times as long.
        confirmations: K, further accusers after whom a suspicion is as short as it gets.
        health_limit: S, the largest local health score; periods and timeouts are stretched by up to S + 1.
        gossip_s: while there is news, it is sent on so often, to `fanout` members.
        sync_s: so often the whole view is compared with that of another member.
        reconnect_s: so often one of those who are not here (dead, or a seed) is tried.
        dead_tried_s: how long a dead member is tried. Its incarnation is remembered beyond that.
        members: how many are known at most, the dead ones included.

    Raises:
        ConfigError: two of them do not go together, or one is out of range.
    """

    probe_s: float = 1.0
    probe_timeout_s: float = 0.4
    indirect: int = 3
    retransmit: int = 4
    suspicion_alpha: float = 5.0
    suspicion_beta: float = 6.0
    confirmations: int = 3
    health_limit: int = 8
    gossip_s: float = 0.2
    fanout: int = 3
    sync_s: float = 30.0
    reconnect_s: float = 10.0
    dead_tried_s: float = 86_400.0
    members: int = 1024

    def __post_init__(self) -> None:
        whole = ("indirect", "retransmit", "confirmations", "fanout", "members")
        times = ("gossip_s", "sync_s", "reconnect_s", "dead_tried_s", "suspicion_alpha")
        bad = [name for name in whole if not 1 <= getattr(self, name) <= 4096]
        bad += [name for name in times if not 0 < getattr(self, name) < math.inf]
        bad += ["probe_timeout_s"] if not 0 < self.probe_timeout_s < self.probe_s < math.inf else []
        bad += ["suspicion_beta"] if not 1 <= self.suspicion_beta < math.inf else []
        bad += ["health_limit"] if self.health_limit < 0 else []
        if bad:
            raise ConfigError(
                f"the membership's {', '.join(bad)} cannot be {', '.join(str(getattr(self, name)) for name in bad)}: "
                "counts are 1 to 4096, times above 0, probe_timeout_s below probe_s, and suspicion_beta 1 or more"
            )

    def retransmissions(self, members: int) -> int:
        """How often a statement is passed on among so many members."""
        return math.ceil(self.retransmit * math.log10(members + 1))

    def suspicion_s(self, members: int, confirmed: int) -> float:
        """How long a suspicion lasts that `confirmed` others share (Lifeguard, section IV-B)."""
        shortest = self.suspicion_alpha * max(1.0, math.log10(max(members, 1))) * self.probe_s
        longest = self.suspicion_beta * shortest
        wanted = min(self.confirmations, members - 2)
        if wanted < 1:
            return shortest
        return max(shortest, longest - (longest - shortest) * math.log(confirmed + 1) / math.log(wanted + 1))
