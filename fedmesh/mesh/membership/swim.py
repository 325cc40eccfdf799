"""One member: `received` and `tick` say what to send, and nothing here has a socket, a clock, a thread or a queue.

SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2018). Beyond the papers: statements are
signed; the dead, and seeds that are not here, are tried now and then, which heals partitions; who has stood still does
not hold the time against the others; and nobody is dead on another's word alone (`table`).
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedmesh.errors import DecodeError
from fedmesh.mesh.membership.comparing import differences, pages, summaries
from fedmesh.mesh.membership.health import LocalHealth
from fedmesh.mesh.membership.incarnations import Incarnations
from fedmesh.mesh.membership.messages import (
    Ack,
    Gossip,
    Message,
    Nack,
    Ping,
    PingReq,
    States,
    Summary,
    decode,
    encode,
)
from fedmesh.mesh.membership.prober import Prober
from fedmesh.mesh.membership.settings import Settings
from fedmesh.mesh.membership.statements import Signer, State
from fedmesh.mesh.membership.table import Member
from fedmesh.mesh.membership.view import View

__all__ = ["Outgoing", "Swim"]

_PIGGYBACK_BYTES = 1200
_GOSSIP_BYTES = 4096
_GREET_S = 5.0
_ASKED_EACH = 8  # summaries, and lists of wants, of one peer in `_GREET_S`: each may be answered with the whole view
_MAX_SEEDS = 64


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent; it may be lost.

    Attributes:
        to: the member's name, which the transport compares with the certificate.
        addresses: where it may be; empty if nobody said, and then only a link that is open already leads there.
        data: the bytes, one frame.
    """

    to: str
    addresses: tuple[str, ...]
    data: bytes


class Swim:
    """The membership of one member. What its methods return is to be sent; `due` is when `tick` is to be called.

    Args:
        signer: its name and key.
        key_of: id -> Ed25519 key (32 bytes) on the newest roster; None: no such member, or not any more.
        incarnations: durable, see `DurableIncarnations`.
        rng: for all choices; `random.SystemRandom()` but in tests, so that nobody foresees who is asked.
        changed: called with name and member after each change; with None when one was removed with the roster.
        heard: name -> when anything last came from it on its link, on the clock of `now`; who was heard since it was
            probed has answered, though the answer itself may wait behind a model on a slow link.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        key_of: Callable[[str], bytes | None],
        incarnations: Incarnations,
        rng: random.Random,
        settings: Settings | None = None,
        changed: Callable[[str, Member | None], None] = lambda _name, _member: None,
        heard: Callable[[str], float] = lambda _name: -math.inf,
    ) -> None:
        self._name, self._key_of, self._rng = signer.name.id, key_of, rng
        self._settings = settings or Settings()
        self._health = LocalHealth(self._settings.health_limit)
        self._view = View(
            signer,
            key_of=key_of,
            incarnations=incarnations,
            settings=self._settings,
            health=self._health,
            changed=changed,
        )
        self._table = self._view.table
        self._prober = Prober(self._settings, self._table, self._health, rng, self._post, heard=heard)
        self._seeds: dict[str, tuple[str, ...]] = {}
        self._greeted: dict[str, float] = {}
        self._asked: dict[str, dict[type[Message], list[float]]] = {}
        self._out: list[Outgoing] = []
        self._gossip_at = self._sync_at = self._reconnect_at = 0.0
        self._due = math.inf
        self._expected = 0.0

    @property
    def due(self) -> float:
        """When `tick` is to be called, at the latest; each call of a method may change it. Infinite when not here."""
        return self._due

    @property
    def incarnation(self) -> int:
        """Of this member; 0 before the start."""
        return self._view.incarnation

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody that it knows, itself included, by name."""
        return self._view.members

    @property
    def health(self) -> int:
        """Lifeguard's local health score: 0 is well."""
        return self._health.score

    @property
    def counts(self) -> Counter[str]:
        """What was refused or could not be done, by reason.

        ``malformed``, ``name`` (not on the roster), ``proof`` (not signed by whom it says), ``full``, ``busy`` (a peer
        asks too much), ``storage`` (an incarnation could not be kept).
        """
        return self._view.counts

    def start(
        self, now: float, *, seeds: Mapping[str, Sequence[str]], addresses: Sequence[str] = (), model: str = ""
    ) -> list[Outgoing]:
        """Joins, anew after `leave` too.

        Args:
            now: seconds on a clock that only goes forward, as everywhere here.
            seeds: name -> addresses of members that may know others, 64 at most; believed in nothing.
            addresses: this member's own, ``host:port``, four at most.
            model: the version that it has.

        Raises:
            ConfigError: the addresses or the version are malformed, or the incarnation cannot be kept.
        """
        was_away_s = 0.0 if self._view.own is None else max(0.0, now - self._expected)
        self._view.announce(addresses, model)
        self._table.shift(was_away_s)
        self._gossip_at = now
        self._prober.start(now)
        self._sync_at = now + self._rng.uniform(0, self._settings.sync_s)
        self._reconnect_at = now + self._rng.uniform(0.5, 1) * min(self._settings.reconnect_s, _GREET_S)
        self._seeds = {name: tuple(hints) for name, hints in list(seeds.items())[:_MAX_SEEDS] if name != self._name}
        self._greeted.clear()
        for name in self._seeds:
            self._greet(name, now)
        return self._flush(now)

    def update(self, now: float, *, addresses: Sequence[str], model: str) -> list[Outgoing]:
        """Says that the addresses, or the version of the model, are others now. Raises: ConfigError: as `start`."""
        if self._is_here:
            self._view.announce(addresses, model)
        return self._flush(now)

    def leave(self, now: float) -> list[Outgoing]:
        """Says goodbye to some, who tell the rest; from now on nothing is answered."""
        if self._is_here:
            self._view.depart()
            live = self._table.live
            for name in self._rng.sample(live, min(self._settings.retransmissions(self._table.size), len(live))):
                self._post(name, Gossip((self._view.said.raw,)))
        return self._flush(now)

    def roster_changed(self, now: float) -> list[Outgoing]:
        """To be called when a new roster or revocation list was taken over: who is not on it is removed at once."""
        self._view.roster_changed(now)
        self._greeted = {name: at for name, at in self._greeted.items() if self._key_of(name) is not None}
        self._asked = {name: kinds for name, kinds in self._asked.items() if self._key_of(name) is not None}
        return self._flush(now)

    def met(self, peer: str, now: float) -> list[Outgoing]:
        """There is a link with `peer`, whoever made it: if it is new here, or held dead, the two compare views."""
        record = self._table.records.get(peer)
        is_absent = record is None or record.state >= State.DEAD
        if self._is_here and is_absent and peer != self._name and self._key_of(peer) is not None:
            self._greet(peer, now)
        return self._flush(now)

    def tick(self, now: float) -> list[Outgoing]:
        """What is to be sent because time has passed."""
        if not self._is_here:
            return []
        late = now - self._expected
        if late > self._settings.probe_timeout_s:  # this member stood still: nobody has failed by that
            self._prober.shift(late)
            self._table.shift(late)
            self._health.worse()
        failed = self._prober.tick(now)
        if failed is not None:
            self._view.accuse(failed, now)
        self._view.end_suspicions(now)
        if self._view.news and now >= self._gossip_at:
            self._gossip_at = now + self._settings.gossip_s
            self._gossip()
        if now >= self._sync_at:
            self._sync_at = now + self._settings.sync_s * self._rng.uniform(0.8, 1.2)
            if self._table.live:
                self._compare_with(self._rng.choice(self._table.live))
        if now >= self._reconnect_at:
            self._reconnect_at = now + self._settings.reconnect_s * self._rng.uniform(0.5, 1)
            self._reconnect(now)
        return self._flush(now)

    def received(self, peer: str, data: bytes, now: float) -> list[Outgoing]:
        """What is to be sent because this came.

        Args:
            peer: who sent it, by the certificate of the link.
            data: whatever it is; what is malformed is counted.
        """
        if not self._is_here or peer == self._name:
            return []
        if self._key_of(peer) is None:
            self.counts["name"] += 1
            return []
        try:
            self._handle(peer, decode(data), now)
        except DecodeError:
            self.counts["malformed"] += 1
        return self._flush(now)

    def _handle(self, peer: str, message: Message, now: float) -> None:
        record = self._table.records.get(peer)
        is_absent = record is None or record.state >= State.DEAD
        if not isinstance(message, Nack):
            self._view.read(message.statements, now, in_bulk=isinstance(message, States))
        if is_absent and not isinstance(message, Summary | States):
            self._greet(peer, now)
        if isinstance(message, Ping | Ack | PingReq | Gossip) and self._view.is_refuted_in(message.statements):
            self._post(peer, Gossip((self._view.said.raw,)))  # what told everybody did not reach this one
        self._respond(peer, message, now)

    def _respond(self, peer: str, message: Message, now: float) -> None:
        match message:
            case Ping():
                self._post(peer, Ack(message.sequence))
            case Ack():
                self._prober.acked(peer, message.sequence)
            case Nack():
                self._prober.nacked(peer, message.sequence)
            case PingReq():
                self._help(peer, message, now)
            case Summary():
                self._answer(peer, message, now)
            case States():
                self._give(peer, message, now)
            case Gossip():
                pass

    def _help(self, peer: str, request: PingReq, now: float) -> None:
        if request.target == self._name:
            self._post(peer, Ack(request.sequence))
        elif request.target not in self._table.records or not self._prober.asked(peer, request, now):
            self.counts["busy"] += 1

    def _answer(self, peer: str, summary: Summary, now: float) -> None:
        if self._asks_too_much(peer, Summary, now):
            return
        more, less = differences(self._view.standings, summary)
        for page in pages(more, [name for name in less if self._key_of(name) is not None], self._view.proof):
            self._post(peer, page)

    def _give(self, peer: str, states: States, now: float) -> None:
        known = [name for name in dict.fromkeys(states.wants) if name == self._name or name in self._table.records]
        if known and not self._asks_too_much(peer, States, now):
            for page in pages(known, (), self._view.proof):
                self._post(peer, page)

    def _asks_too_much(self, peer: str, kind: type[Message], now: float) -> bool:
        kinds = self._asked.setdefault(peer, {})
        lately = [at for at in kinds.get(kind, ()) if at > now - _GREET_S]
        is_enough = len(lately) >= _ASKED_EACH
        kinds[kind] = lately if is_enough else [*lately, now]
        self.counts["busy"] += is_enough
        return is_enough

    def _gossip(self) -> None:
        live = self._table.live
        for name in self._rng.sample(live, min(self._settings.fanout, len(live))):
            picked = self._pick(_GOSSIP_BYTES)
            if picked:
                self._post(name, Gossip(tuple(picked)))

    def _greet(self, peer: str, now: float) -> None:
        """Compares with `peer`, who is new, or was held dead; not again and again."""
        if now - self._greeted.get(peer, now - _GREET_S) >= _GREET_S:
            self._greeted[peer] = now
            self._compare_with(peer)

    def _compare_with(self, peer: str) -> None:
        for summary in summaries(self._view.standings, self._view.said.raw):
            self._post(peer, summary)

    def _reconnect(self, now: float) -> None:
        """Tries one that is not here: a partition may have healed."""
        records = self._table.records
        recent = [name for name in self._table.dead if now - records[name].since < self._settings.dead_tried_s]
        seeds = [name for name in self._seeds if name not in records or records[name].state is State.DEAD]
        missing = dict.fromkeys([*recent, *(name for name in seeds if self._key_of(name) is not None)])
        if missing:
            name = self._rng.choice(list(missing))
            if name in records:
                self._prober.ping(name)
            else:
                self._greet(name, now)

    def _post(self, to: str, message: Message) -> None:
        if self._key_of(to) is None:  # revoked while a relay or a probe was under way, or a seed that is not enrolled
            return
        # What is held against the receiver comes first: it is who can refute it (Lifeguard's buddy system, IV-C).
        if isinstance(message, Ping | Ack | PingReq):
            message = replace(message, statements=(*self._view.against(to), *self._pick(_PIGGYBACK_BYTES)))
        elif isinstance(message, Summary) and not message.after:
            message = replace(message, statements=(*message.statements, *self._view.against(to)))
        record = self._table.records.get(to)
        addresses = record.own.addresses if record is not None else ()
        self._out.append(Outgoing(to, addresses or self._seeds.get(to, ()), encode(message)))

    def _pick(self, max_bytes: int) -> list[bytes]:
        news = self._view.news
        return news.pick(max_bytes, self._settings.retransmissions(self._table.size)) if news else []

    @property
    def _is_here(self) -> bool:
        return self._view.own is not None and self._view.own.state is State.ALIVE

    def _flush(self, now: float) -> list[Outgoing]:
        self._expected = min(self._prober.due, self._sync_at, self._reconnect_at)
        times = [self._expected, *map(self._table.deadline, self._table.suspects)]
        if self._view.news:
            self._gossip_at = max(self._gossip_at, now)  # it was not late: there was nothing to tell
            times.append(self._gossip_at)
        self._due = min(times) if self._is_here else math.inf
        out, self._out = self._out, []
        return out
