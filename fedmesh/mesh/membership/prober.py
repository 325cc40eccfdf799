"""Who is there: one member is probed in each period, directly, then through others (SWIM 3.1, 4.3; Lifeguard IV-A).

Members are taken in a random order that is drawn anew when all have had their turn, so that a crash is noticed within
two rounds at the latest. Only members themselves, or helpers that were asked, are heard as answers.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fedmesh.mesh.membership.health import LocalHealth
from fedmesh.mesh.membership.messages import MAX_SEQUENCE, Ack, Message, Nack, Ping, PingReq
from fedmesh.mesh.membership.settings import Settings
from fedmesh.mesh.membership.statements import State
from fedmesh.mesh.membership.table import Table

__all__ = ["Prober"]


@dataclass(slots=True)
class _Probe:
    """The one under way."""

    target: str
    sequence: int
    began: float
    asks_at: float
    ends: float
    helpers: list[str] = field(default_factory=list)
    nacks: set[str] = field(default_factory=set)
    has_asked: bool = False


@dataclass(slots=True)
class _Relay:
    """A probe for somebody else."""

    sequence: int
    own_sequence: int
    target: str
    asked_at: float
    nacks_at: float
    has_nacked: bool = False


class Prober:
    """The probes of one member.

    Args:
        post: sends a message to a member.
        heard: when anything last came from a member, as `Swim`'s.
    """

    def __init__(
        self,
        settings: Settings,
        table: Table,
        health: LocalHealth,
        rng: random.Random,
        post: Callable[[str, Message], None],
        *,
        heard: Callable[[str], float],
    ) -> None:
        self._heard = heard
        self._settings, self._table, self._health, self._rng, self._post = settings, table, health, rng, post
        self._order: list[str] = []
        self._probe: _Probe | None = None
        self._relays: dict[str, _Relay] = {}  # by who asked; each has one probe under way
        self._next = 0.0
        self._sequence = rng.randrange(MAX_SEQUENCE)

    def start(self, now: float) -> None:
        """Members that start together do not probe together. What was under way before is over."""
        self._probe = None
        self._relays.clear()
        self._next = now + self._rng.uniform(0, self._settings.probe_s)

    @property
    def due(self) -> float:
        """When `tick` has something to do."""
        times = [self._next, *(relay.nacks_at for relay in self._relays.values() if not relay.has_nacked)]
        if self._probe is not None:
            times.append(self._probe.ends if self._probe.has_asked else self._probe.asks_at)
        return min(times)

    def shift(self, seconds: float) -> None:
        """This member stood still for so long: the answers may lie before its door."""
        if self._probe is not None:
            self._probe.asks_at += seconds
            self._probe.ends += seconds
        self._next += seconds

    def tick(self, now: float) -> str | None:
        """The member whose probe has failed just now, if one has."""
        self._tick_relays(now)
        failed = None
        probe = self._probe
        if probe is not None and self._heard(probe.target) > probe.began:
            self._probe = None  # it is there: the answer may wait behind all else that it is sent
        elif probe is not None and now >= probe.ends:
            failed, self._probe = probe.target, None
            # Where every helper heard this member and said no, the fault lies with the target.
            self._health.worse(len(set(probe.helpers) - probe.nacks) if probe.helpers else 1)
        elif probe is not None and now >= probe.asks_at and not probe.has_asked:
            self._ask_others(probe)
        if now >= self._next:
            self._begin(now)
        return failed

    def ping(self, target: str) -> None:
        """Asks `target`, without drawing conclusions if it does not answer."""
        self._post(target, Ping(self._number()))

    def acked(self, peer: str, sequence: int) -> None:
        """`peer` says that it, or whom it was asked to probe, is there."""
        probe = self._probe
        if probe is not None and probe.sequence == sequence and peer in (probe.target, *probe.helpers):
            self._probe = None
            self._health.better()
        for requester, relay in self._relays.items():
            if relay.own_sequence == sequence and relay.target == peer:
                del self._relays[requester]
                self._post(requester, Ack(relay.sequence))
                break

    def nacked(self, peer: str, sequence: int) -> None:
        """`peer`, a helper, has heard nothing so far."""
        if self._probe is not None and self._probe.sequence == sequence and peer in self._probe.helpers:
            self._probe.nacks.add(peer)

    def asked(self, peer: str, request: PingReq, now: float) -> bool:
        """Probes for `peer`, instead of what it asked for before; False: it asks too often."""
        timeout = self._settings.probe_timeout_s
        before = self._relays.get(peer)
        if before is not None and now - before.asked_at < timeout / 2:
            return before.sequence == request.sequence  # the network has doubled it
        relay = _Relay(request.sequence, self._number(), request.target, now, now + 0.8 * timeout)
        self._relays[peer] = relay
        self._post(request.target, Ping(relay.own_sequence))
        return True

    def _begin(self, now: float) -> None:
        period = self._settings.probe_s * self._health.multiplier
        self._next = now + period
        target = self._target()
        if target is None:
            return
        asks_at = now + self._settings.probe_timeout_s * self._health.multiplier
        self._probe = _Probe(target, self._number(), now, asks_at, now + period)
        self._post(target, Ping(self._probe.sequence))

    def _target(self) -> str | None:
        for _ in range(2):
            while self._order:
                name = self._order.pop()
                if name in self._table.records and self._table.records[name].state <= State.SUSPECT:
                    return name
            self._order = list(self._table.live)
            self._rng.shuffle(self._order)
        return None

    def _ask_others(self, probe: _Probe) -> None:
        probe.has_asked = True
        others = [name for name in self._table.live if name != probe.target]
        probe.helpers = self._rng.sample(others, min(self._settings.indirect, len(others)))
        for helper in probe.helpers:
            self._post(helper, PingReq(probe.sequence, probe.target))

    def _tick_relays(self, now: float) -> None:
        longest = self._settings.probe_s * (self._settings.health_limit + 1)
        for requester, relay in list(self._relays.items()):
            if now >= relay.asked_at + longest:
                del self._relays[requester]
            elif now >= relay.nacks_at and not relay.has_nacked:
                relay.has_nacked = True
                self._post(requester, Nack(relay.sequence))

    def _number(self) -> int:
        self._sequence = (self._sequence + 1) % MAX_SEQUENCE
        return self._sequence
