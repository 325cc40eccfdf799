"""One run on a running node: its `Member` is called when something comes and when it is due, and what it wants is done.

What it must not forget is in the run's folder: the charter, its ballot and certificates, and the proof of a fork. A run
that is over stays here to tell late ones what they missed; it is due never more, and sends nothing by itself.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmesh.errors import ChainError, ConfigError
from fedmesh.events import (
    AttemptBegun,
    EventSink,
    Notice,
    RoundCertified,
    RunDeclined,
    RunEnded,
    RunForked,
    RunJoined,
)
from fedmesh.files import write_atomically
from fedmesh.mesh.rounds import (
    Certificate,
    Certified,
    Charter,
    DurableMemory,
    Effect,
    Fork,
    Forked,
    Keyring,
    Member,
    Result,
    Send,
    Want,
)
from fedmesh.peer.alarm import Alarm
from fedmesh.peer.blob_exchange import BlobExchange
from fedmesh.peer.blobs import BlobStore
from fedmesh.peer.learning import Learning
from fedmesh.peer.standing_by import StandingBy
from fedmesh.secagg import Identity
from fedmesh.types import PeerId

__all__ = ["CHARTER", "Means", "Run"]

CHARTER = "charter"
FORK = "fork"
_LEARNING = "learning"
_AGAIN_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What all runs of a node share.

    Attributes:
        name, identity: of this member.
        max_bytes: longest packet. send: takes one on its way. alive: who of a charter is held alive, and counts.
        certified: called behind each result that was taken over: what may go is looked at.
    """

    name: str
    identity: Identity
    blobs: BlobStore
    exchange: BlobExchange
    learning: Learning | None
    max_bytes: int
    send: Callable[[Charter, PeerId, bytes], None]
    alive: Callable[[Charter], frozenset[str]]
    certified: Callable[[], None]
    events: EventSink


class Run:
    """In `folder`, which is there and has the charter.

    Attributes:
        member: the core; None: this node is no member of the charter, or takes no part for what a `Notice` says.
        begun: when its present round began here, on the loop's clock.
    """

    def __init__(self, charter: Charter, folder: Path, means: Means) -> None:
        self.charter, self._folder, self._means = charter, folder, means
        self._loop = asyncio.get_running_loop()
        self.begun = self._loop.time()
        self.member: Member | None = None
        self._is_forked = (folder / FORK).exists()
        self._sessions = StandingBy(means.blobs)
        self._sessions.is_final = means.learning is None
        self._alarm = Alarm(self._tick)
        self._preparing: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._heading: asyncio.Task[None] | None = None
        self._wanted: tuple[bytes, ...] = ()
        self._asked: tuple[PeerId, bytes] | None = None
        self._alive: frozenset[str] | None = None
        self._seen = (0, 0)
        self._trouble = ""
        self._closed = False

    @property
    def is_member(self) -> bool:
        """Whether this node is one of the charter's, under the key that it has now."""
        return self.charter.members.get(self._means.name) == self._means.identity.public

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen in it any more."""
        return self._is_forked or (self.member is not None and self.member.chain.is_complete)

    @property
    def is_live(self) -> bool:
        """Whether this node takes part in it, and it goes on."""
        return self.member is not None and not self.is_over

    @property
    def counts(self) -> Mapping[str, int]:
        """What was refused, by reason."""
        return {} if self.member is None else self.member.counts

    @property
    def named(self) -> set[bytes]:
        """What has to stay here, or to come: of the charter, of the newest two results, of one that is asked about."""
        found = {self.charter.scenario}
        if not self.is_over:
            found |= {self.charter.model, self.charter.state, *self._wanted}
        if self.member is not None:
            last = self.member.chain.since(len(self.member.chain) - (0 if self.is_over else 1), 2)
            for certificate in last:
                found |= {certificate.result.model, certificate.result.state}
        return found

    @property
    def status(self) -> dict[str, Any]:
        """What ``fedmesh mesh status`` says of it."""
        member, rounds = self.member, self.charter.rounds
        results = [] if member is None else member.chain.since(1, rounds)
        return {
            "task": self.charter.task,
            "run": self.charter.run.hex(),
            "state": self._state,
            "round": None if member is None else min(member.round, rounds),
            "rounds": rounds,
            "attempt": None if member is None else member.attempt,
            "aggregator": member.coordinator if member is not None and self.is_live else None,
            "results": len(results),
            "void": sum(certificate.result.is_void for certificate in results),
        }

    @property
    def _state(self) -> str:
        if self._is_forked:
            return "forked"
        if not self.is_member:
            return "elsewhere"
        return "stopped" if self.member is None else "over" if self.is_over else "running"

    def begin(self) -> None:
        """Takes part, as far as this node is one of the run's."""
        if not self.is_member or self._is_forked or self._closed:
            return
        keys = Keyring(self._means.identity, self.charter.members)
        try:
            self.member = Member(
                self.charter,
                self._means.name,
                keys=keys,
                memory=DurableMemory(self._folder),
                sessions=self._sessions,
                rng=random.SystemRandom(),
                max_bytes=self._means.max_bytes,
            )
        except (ConfigError, ChainError) as error:
            self._stopped(error)
            return
        self._seen, self._trouble = (self.member.round, self.member.attempt), ""
        self._fetch_head()
        if self.is_over:
            if self._is_owed(self.member) and self._preparing is None:
                self._preparing = self._loop.create_task(self._prepare())
            return
        charter = self.charter
        if self._preparing is None:
            facts = self.member.round, charter.rounds, len(charter.members), charter.quorum
            self._means.events(RunJoined(charter.task, charter.run.hex(), *facts))
            self._preparing = self._loop.create_task(self._prepare())
        self._alive = None
        self.alive_changed()
        self._do(lambda member, now: member.start(now))

    def received(self, sender: PeerId, data: bytes) -> None:
        """A packet of this run."""
        self._do(lambda member, now: member.received(sender, data, now), (sender, data))

    def answered(self, number: int, attempt: int, data: bytes) -> None:
        """This device has trained."""
        self._do(lambda member, now: member.answered(number, attempt, data, now))

    def changed(self) -> None:
        """What the device says of itself is otherwise than before."""
        self._do(lambda member, now: member.changed(now))

    def alive_changed(self) -> None:
        """Somebody is held to be something else."""
        if not self.is_live:
            return
        alive = self._means.alive(self.charter)
        if alive != self._alive:
            self._alive = alive
            self._do(lambda member, now: member.alive_changed(alive, now))

    async def aclose(self) -> None:
        """Nothing is done any more; what it needs to go on is in its folder."""
        self._closed = True
        self._alarm.cancel()
        tasks = [task for task in (self._preparing, self._fetching, self._heading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tick(self) -> None:
        if self.member is None:
            self.begin()
        else:
            self._do(lambda member, now: member.tick(now))

    def _do(self, call: Callable[[Member, float], list[Effect]], packet: tuple[PeerId, bytes] | None = None) -> None:
        member = self.member
        if member is None or self._closed:
            return
        try:
            effects = call(member, self._loop.time())
        except (ConfigError, ChainError) as error:
            self._stopped(error)
            return
        for effect in effects:
            self._carry(effect, packet)
        if self.member is member:
            self._alarm.set(member.due)
            self._tell_attempt(member)

    def _carry(self, effect: Effect, packet: tuple[PeerId, bytes] | None) -> None:
        match effect:
            case Send():
                self._means.send(self.charter, effect.to, effect.data)
            case Certified():
                self._certified(effect.certificate)
            case Want():
                self._want(effect, packet)
            case Forked():
                self._forked(effect.fork)

    def _stopped(self, error: Exception) -> None:
        """It cannot go on: what is on the disk counts, and it begins again from there, if it can."""
        self.member = None
        if self._trouble != str(error):
            self._means.events(Notice(f"the run of {self.charter.task} waits: {error}"))
        self._trouble = str(error)
        self._alarm.set(self._loop.time() + _AGAIN_S)

    def _tell_attempt(self, member: Member) -> None:
        seen = member.round, member.attempt
        if seen != self._seen and member.attempt and self.is_live:
            facts = member.round, member.attempt, member.coordinator
            self._means.events(AttemptBegun(self.charter.task, self.charter.run.hex(), *facts))
        self._seen = seen

    def _certified(self, certificate: Certificate) -> None:
        charter, result = self.charter, certificate.result
        survivors, epsilon = result.survivors, result.privacy.get("epsilon")
        facts = result.round, result.attempt, len(survivors), ", ".join(survivors), result.is_void, epsilon
        self.begun, self._wanted = self._loop.time(), ()
        self._means.events(RoundCertified(charter.task, charter.run.hex(), *facts))
        if self._means.learning is not None:
            self._means.learning.certified(charter, certificate, self._means.blobs)
        self._means.certified()
        self._fetch_head()
        if result.round == charter.rounds and self.member is not None:
            void = sum(each.result.is_void for each in self.member.chain.since(1, charter.rounds))
            self._means.events(RunEnded(charter.task, charter.run.hex(), charter.rounds, void))

    def _forked(self, fork: Fork) -> None:
        charter = self.charter
        self._is_forked = True
        signers = ", ".join(fork.signers)
        self._means.events(RunForked(charter.task, charter.run.hex(), fork.first.result.round, signers))
        text = f"the run {charter.run.hex()} of {charter.task} is broken: {signers} signed two results of one round"
        _log.error("%s", text)
        self._means.events(Notice(text))
        try:
            write_atomically(self._folder / FORK, fork.to_bytes())
        except ConfigError as error:  # the others tell it again when this node has been started anew
            self._means.events(Notice(str(error)))

    # What is missing.

    def _fetch_head(self) -> None:
        """Model and state of the last result: those that the next round begins with."""
        if self.member is None:
            return
        chain = self.member.chain
        head, signers = chain.head, [name for last in chain.since(len(chain), 1) for name in last.signatures]
        missing = [digest for digest in (head.model, head.state) if digest not in self._means.blobs]
        tasks = [self._means.exchange.want(digest, self._others(signers)) for digest in missing]
        if self._heading is not None:
            self._heading.cancel()
        self._heading = self._loop.create_task(self._begin_round(head, tasks))

    async def _begin_round(self, head: Result, fetching: "list[asyncio.Task[None]]") -> None:
        """Lets the device begin, once what it begins with is here."""
        if fetching:
            await asyncio.wait(fetching)
        is_here = all(digest in self._means.blobs for digest in (head.model, head.state))
        if is_here and self._sessions.behind is not None and self.is_live:
            self._sessions.behind.begin(head)

    def _others(self, first: Iterable[str]) -> list[PeerId]:
        names = dict.fromkeys([*sorted(first), self.charter.signer])
        return [name for name in names if name != self._means.name]

    def _want(self, want: Want, packet: tuple[PeerId, bytes] | None) -> None:
        """Fetches what a result names, and has the question answered then."""
        self._asked = packet
        if want.digests == self._wanted and self._fetching is not None and not self._fetching.done():
            return
        self._wanted = want.digests
        if self._fetching is not None:
            self._fetching.cancel()
        sources = [name for name in want.sources if name != self._means.name]
        tasks = [self._means.exchange.want(digest, sources) for digest in want.digests]
        self._means.certified()
        self._fetching = self._loop.create_task(self._fetched(tasks))

    async def _fetched(self, tasks: "list[asyncio.Task[None]]") -> None:
        await asyncio.wait(tasks)
        if self._asked is not None and all(digest in self._means.blobs for digest in self._wanted):
            self.received(*self._asked)

    async def _prepare(self) -> None:
        """Gets what the device trains with; until then it votes."""
        means, charter = self._means, self.charter
        if means.learning is None:
            return
        while (scenario := means.blobs.get(charter.scenario)) is None:
            await asyncio.wait([means.exchange.want(charter.scenario, self._others(charter.names))])
        folder = self._folder / _LEARNING
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._sessions.behind = await asyncio.to_thread(
                means.learning.sessions,
                charter,
                scenario=scenario,
                blobs=means.blobs,
                folder=folder,
                answered=self._answered_later,
                changed=self._changed_later,
            )
            self._fetch_head()
            self._hand_on(means.learning)
        except (ConfigError, OSError) as error:
            self._sessions.is_final = True
            self.changed()
            means.events(RunDeclined(charter.task, charter.run.hex(), str(error)))

    def _is_owed(self, member: Member) -> bool:
        """Whether this node ended behind the last sum, before the learning had done what there is to do with it."""
        learning, last = self._means.learning, member.chain.last_sum
        return learning is not None and last is not None and learning.owes(last, self._folder / _LEARNING)

    def _hand_on(self, learning: Learning) -> None:
        """Tells of what was certified while nobody was there to be told."""
        chain = None if self.member is None else self.member.chain
        for certificate in () if chain is None else (chain.last_sum, *chain.since(self.charter.rounds, 1)):
            if certificate is not None:
                learning.certified(self.charter, certificate, self._means.blobs)

    def _answered_later(self, number: int, attempt: int, data: bytes) -> None:
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.answered, number, attempt, data)

    def _changed_later(self) -> None:
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.changed)
