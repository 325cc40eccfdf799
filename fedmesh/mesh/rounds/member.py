"""One member of a run: `received`, `tick` and the others say what to do, and nothing here has a socket or a clock.

It keeps its ballot and every certificate before anything leaves that depends on them. It answers whoever coordinates an
attempt, coordinates when it is its turn, and tells who is behind what it missed. See docs/mesh.md for how a round goes.
"""

import math
import random
from collections import Counter, deque
from collections.abc import Collection

from fedmesh.errors import ChainError, DecodeError, RoundError
from fedmesh.mesh.rounds import messages
from fedmesh.mesh.rounds.chain import Chain
from fedmesh.mesh.rounds.charter import Charter
from fedmesh.mesh.rounds.deputy import Deputy
from fedmesh.mesh.rounds.effects import Certified, Effect, Forked, Send, Want
from fedmesh.mesh.rounds.election import coordinator, deputies, ranking
from fedmesh.mesh.rounds.judging import is_possible
from fedmesh.mesh.rounds.keys import Keys
from fedmesh.mesh.rounds.leading import Leading
from fedmesh.mesh.rounds.memory import Memory
from fedmesh.mesh.rounds.messages import (
    Ask,
    Certificates,
    Handover,
    HandoverKept,
    HandoverWanted,
    InRound,
    Message,
    Readiness,
    SetSignature,
    Status,
    Step,
    Vote,
    Wanted,
)
from fedmesh.mesh.rounds.pacing import Pacing
from fedmesh.mesh.rounds.result import Certificate
from fedmesh.mesh.rounds.sessions import Sessions
from fedmesh.mesh.rounds.turn import Turn
from fedmesh.mesh.rounds.voting import Phase, Voter

__all__ = ["Member"]

_DEPUTIES = 2
_FANOUT = 2


class Member:
    """What a member does in one run. What its methods return is to be done; `due` is when `tick` is to be called.

    Args:
        charter: of the run, opened. name: this member's, one of the charter's.
        keys: its own signature, and the charter's keys.
        memory: durable, see `DurableMemory`.
        sessions: its secure aggregation.
        rng: whom it tells: `random.SystemRandom()` but in tests.
        max_bytes: longest message with a step of secure aggregation.

    Raises:
        ConfigError: what it kept is damaged, or cannot be written.
        ChainError: a certificate that it kept is not one of this run.
    """

    def __init__(
        self,
        charter: Charter,
        name: str,
        *,
        keys: Keys,
        memory: Memory,
        sessions: Sessions,
        rng: random.Random,
        max_bytes: int = 1 << 26,
    ) -> None:
        self.name, self._charter, self._keys, self._memory = name, charter, keys, memory
        self._sessions, self._rng, self._max_bytes = sessions, rng, max_bytes
        self.counts: Counter[str] = Counter()
        """What was refused, by reason: ``malformed``, ``name`` (no member), ``chain``, ``step``, ``ask``."""
        self._voter = Voter(charter, keys, memory.ballot())
        self._kept = self._voter.ballot
        memory.keep(self._kept)
        self.chain = Chain(charter, keys, memory.certificates())
        """The results so far."""
        self._alive = frozenset(charter.members)
        self._effects: list[Effect] = []
        self._inbox: deque[Message] = deque()
        self._resend_s = charter.schedule.vote_s / 2
        self._resend_at = 0.0
        self._begin_round()

    def __repr__(self) -> str:
        return f"Member({self.name!r}, round={self.round}, attempt={self.attempt})"

    @property
    def round(self) -> int:
        """The round that is under way; one beyond the last when the run is over."""
        return len(self.chain) + 1

    @property
    def attempt(self) -> int:
        """The attempt that this member takes part in."""
        return self._voter.ballot.attempt

    @property
    def coordinator(self) -> str:
        """Who coordinates it, as far as this member knows."""
        return coordinator(self._order, self.attempt, self._alive)

    @property
    def due(self) -> float:
        """When `tick` is to be called, at the latest; every call of any method may change it."""
        if self._is_over:
            return math.inf
        deadline = self._pacing.deadline(self.attempt)
        leading = math.inf if self._leading is None else self._leading.due
        return min(self._resend_at, leading, math.inf if deadline is None else deadline)

    def start(self, now: float) -> list[Effect]:
        """Tells the others that it is here; `now` is seconds on a clock that only goes forward, as everywhere here."""
        self._resend_at = now + self._resend_s
        self._tell_all()
        return self._done(now)

    def received(self, sender: str, data: bytes, now: float) -> list[Effect]:
        """A message came; `sender` is the name in the certificate of its link, or who signed its packet."""
        if sender not in self._charter.members:
            self.counts["name"] += 1
            return []
        try:
            message = messages.decode(data, self._charter.hash, max_bytes=self._max_bytes)
        except DecodeError:
            self.counts["malformed"] += 1
            return []
        self._take(sender, message, now)
        return self._done(now)

    def answered(self, number: int, attempt: int, data: bytes, now: float) -> list[Effect]:
        """This device's answer in a session, which took its time: it has trained."""
        to = self._session_of.get(attempt)
        if number == self.round and to is not None:
            self._send(to, Step(self.round, attempt, False, data))
        self._tell_signed()
        return self._done(now)

    def changed(self, now: float) -> list[Effect]:
        """What the sessions say of themselves has changed by itself: the device is ready, or a sum is there."""
        self._tell_all()
        return self._done(now)

    def alive_changed(self, alive: Collection[str], now: float) -> list[Effect]:
        """Whom the membership holds alive. When the coordinator is not among them any more, the next attempt begins."""
        followed = self.coordinator
        self._alive = frozenset(alive) | {self.name}
        if followed not in self._alive and self._pacing.established is not None:
            self._enter(self.attempt + 1)
        return self._done(now)

    def tick(self, now: float) -> list[Effect]:
        """Does what is due."""
        if self._is_over:
            return []
        deadline = self._pacing.deadline(self.attempt)
        if deadline is not None and now >= deadline:
            self._enter(self.attempt + 1)
        if now >= self._resend_at:
            self._resend_at = now + self._resend_s
            others = [name for name in self._charter.names if name != self.name]
            for name in sorted({self.coordinator, self._rng.choice(others)} - {self.name}):
                self._send(name, self._status())
            if self._leading is not None:
                self._leading.again()
        return self._done(now)

    @property
    def _is_over(self) -> bool:
        return self.chain.is_complete or self.chain.is_broken

    def _begin_round(self) -> None:
        self._order = ranking(self.chain.parent, self.round, self._charter.names, self.chain.trained)
        self._may_vote = self._voter.enter(self.round)
        self._pacing = Pacing(self._charter, self._keys, self.name)
        self._leading: Leading | None = None
        self._session_of: dict[int, str] = {}
        self._deputy = Deputy()
        self._resumed: Counter[int] = Counter()
        self._told: SetSignature | None = None

    def _enter(self, attempt: int) -> None:
        self._voter.take_part(attempt)
        self._pacing.enter()
        self._leading = None
        self._tell_all()

    def _done(self, now: float) -> list[Effect]:
        """Works off what this member sent itself, does what follows, and keeps the ballot before anything leaves."""
        self._pulse(now)
        while self._inbox:
            self._take(self.name, self._inbox.popleft(), now)
            self._pulse(now)
        if self._voter.ballot is not self._kept:
            self._memory.keep(self._voter.ballot)
            self._kept = self._voter.ballot
        effects, self._effects = self._effects, []
        return effects

    def _pulse(self, now: float) -> None:
        if self._is_over:
            return
        wanted = self._pacing.wanted(self.attempt, self.coordinator)
        if wanted > self.attempt and self._may_vote:
            self._enter(wanted)
        self._pacing.pulse(self.attempt, now)
        if self._leading is None and self._may_vote and self.coordinator == self.name:
            self._leading = Leading(self._turn())
        if self._leading is None:
            return
        self._leading.pulse(now)
        if self._leading.certificate is not None:
            self._certified(self._leading.certificate, self._charter.names)
        elif self._leading.has_failed:
            self._enter(self.attempt + 1)

    def _turn(self) -> Turn:
        return Turn(
            self._charter,
            self._keys,
            self.name,
            self.attempt,
            self.chain.head,
            self.chain.parent,
            self._sessions,
            statuses=lambda: self._pacing.statuses | {self.name: self._status()},
            alive=lambda: self._alive,
            deputies=lambda: deputies(self._order, self.name, self._alive, _DEPUTIES),
            handovers=self._deputy.kept,
            resumed=self._resumed,
            send=self._send,
        )

    def _status(self) -> Status:
        ballot = self._voter.ballot
        ready = self._sessions.readiness(self.round, ballot.attempt) if self._may_vote else Readiness.OUT
        signed, holding = self._sessions.signed(self.round), tuple(sorted(self._deputy.kept))
        return Status(self.round, ballot.attempt, self.chain.parent, ready, ballot.lock, signed, holding)

    def _tell_all(self) -> None:
        if not self._is_over and self._may_vote:
            self._told = self._sessions.signed(self.round)
            self._send_all(self._status())

    def _tell_signed(self) -> None:
        """A set that was signed is everybody's to know, at once: who succeeds the coordinator goes on by it."""
        if self._sessions.signed(self.round) != self._told:
            self._tell_all()

    def _send(self, to: str, message: Message) -> None:
        if to == self.name:
            self._inbox.append(message)
        else:
            self._effects.append(Send(to, messages.encode(message, self._charter.hash)))

    def _send_all(self, message: Message) -> None:
        data = messages.encode(message, self._charter.hash)
        self._effects += [Send(name, data) for name in self._charter.names if name != self.name]

    def _take(self, sender: str, message: Message, now: float) -> None:
        match message:
            case Certificates():
                for certificate in message.certificates:
                    self._certified(certificate, (), sender)
            case Wanted():
                self._bring(sender, message.first)
            case _:
                if self._is_of_now(sender, message):
                    self._take_in_round(sender, message, now)

    def _is_of_now(self, sender: str, message: InRound) -> bool:
        """Whether it is of this round; who is behind is told what it missed, who is ahead is asked."""
        number, parent = messages.round_of(message), getattr(message, "parent", self.chain.parent)
        if number < self.round or parent != self.chain.parent:
            if sender != self.name:
                self._bring(sender, min(number, self.round - 1))
            return False
        if number > self.round:
            self._send(sender, Wanted(self.round))
            return False
        return not self._is_over

    def _take_in_round(self, sender: str, message: InRound, now: float) -> None:
        match message:
            case Status():
                self._pacing.take(sender, message)
            case Step(down=True):
                self._take_step(sender, message)
            case Ask():
                self._take_ask(sender, message)
            case Handover():
                self._take_handover(sender, message)
            case HandoverWanted():
                if (data := self._deputy.kept.get(message.attempt)) is not None:
                    self._send(sender, Handover(message.round, message.attempt, data))
            case _ if self._leading is not None:
                self._heard_leading(self._leading, sender, message, now)

    def _heard_leading(self, leading: Leading, sender: str, message: Step | Vote | HandoverKept, now: float) -> None:
        try:
            leading.take(sender, message, now)
        except RoundError:
            self.counts["step"] += 1

    def _take_step(self, sender: str, step: Step) -> None:
        """A session's coordinator speaks: that of this attempt, or one that goes on with a session that was signed."""
        signed = self._sessions.signed(self.round)
        is_resumed = signed is not None and signed.attempt == step.attempt
        if sender != self.coordinator or not (step.attempt == self.attempt or is_resumed):
            return
        if self._session_of.setdefault(step.attempt, sender) != sender and not is_resumed:
            return
        self._session_of[step.attempt] = sender
        try:
            answer = self._sessions.answer(self.round, step.attempt, sender, step.data)
        except RoundError:
            self.counts["step"] += 1
            return
        if answer is not None:
            self._send(sender, Step(self.round, step.attempt, False, answer))
        self._tell_signed()

    def _take_handover(self, sender: str, handover: Handover) -> None:
        at = handover.attempt
        is_its_own = at == self.attempt and sender == self._session_of.get(at, self.coordinator)
        if at <= self.attempt and self._deputy.take(at, handover.data, is_its_own=is_its_own):
            self._send(sender, HandoverKept(handover.round, at))

    def _take_ask(self, sender: str, ask: Ask) -> None:
        """Signs, if its votes so far let it, and it has what the result names."""
        result = ask.result
        if not self._may_vote or not self._may_be_asked(sender, ask):
            self.counts["ask"] += 1
            return
        missing = tuple(digest for digest in (result.model, result.state) if not self._sessions.holds(digest))
        if ask.phase is Phase.PREPARE and missing:
            holders = () if ask.proof is None else tuple(ask.proof.signatures)
            self._effects.append(Want(missing, tuple(dict.fromkeys((sender, *holders)))))
            return
        before = self.attempt
        signature = self._voter.vote(ask.phase, ask.attempt, result, ask.proof)
        if self.attempt != before:
            self._pacing.enter()
            self._leading = None
        if signature is None:
            self.counts["ask"] += 1
            return
        self._send(sender, Vote(result.round, ask.phase, ask.attempt, result.hash, signature))

    def _may_be_asked(self, sender: str, ask: Ask) -> bool:
        if ask.phase is not Phase.PREPARE:
            return True  # a quorum has judged it
        return (
            ask.attempt == self.attempt
            and sender == self.coordinator
            and is_possible(ask, self._charter, self._keys, self.chain)
        )

    def _certified(self, certificate: Certificate, to: Collection[str], sender: str = "") -> None:
        """Takes a result over, and tells it on."""
        if self.chain.is_broken:
            return
        try:
            is_new = self.chain.add(certificate)
        except ChainError as error:
            self.counts["chain"] += 1
            if error.code in {"round", "parent"}:
                self._send(sender, Wanted(self.round if error.code == "round" else max(1, self.round - 1)))
            return
        if self.chain.fork is not None:
            self._effects.append(Forked(self.chain.fork))
            self._send_all(Certificates((self.chain.fork.first, self.chain.fork.second)))
        if not is_new:
            return
        number = certificate.result.round
        self._memory.append(certificate)
        self._effects.append(Certified(certificate))
        others = [name for name in self._charter.names if name not in {self.name, sender}]
        for name in to or self._rng.sample(others, min(_FANOUT, len(others))):
            if name != self.name:
                self._send(name, Certificates((certificate,)))
        self._inbox.clear()
        self._sessions.close(number)
        self._begin_round()
        self._tell_all()

    def _bring(self, to: str, first: int) -> None:
        """Sends certificates, as many as a message has room for."""
        page = messages.page(self.chain.since(first, messages.MAX_CERTIFICATES))
        if page.certificates and to != self.name:
            self._send(to, page)
