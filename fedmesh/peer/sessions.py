"""A member's part in the sums of one run: a device among devices, and their aggregator when it coordinates.

What a device trains on is not what a coordinator says, but what is certified: the model and the strategy's state that
the last result names, from which every member works out the round by itself (`fedmesh.fleet.mesh_child`). A coordinator
only says who takes part. A result is believed when a quorum of members stands behind it, never for its sum.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from fedmesh.errors import FedMeshError, RoundError, SecAggError
from fedmesh.events import EventSink, StageStarted, ignore
from fedmesh.federation.sums import sums_of
from fedmesh.fleet.kit import Kit
from fedmesh.mesh.rounds import Charter, Result
from fedmesh.mesh.rounds.messages import Readiness, SetSignature
from fedmesh.mesh.rounds.sessions import Summing
from fedmesh.peer.learning import Blobs
from fedmesh.peer.round_record import RoundRecord, Shelf
from fedmesh.peer.summing import MeshSum, read_step
from fedmesh.peer.workshop import Applied, Facts, Workshop
from fedmesh.secagg import Aggregator, Handover, Identity, Roster, SessionHeader
from fedmesh.secagg.identity import verify
from fedmesh.secagg.messages import names, read, unpack_body
from fedmesh.secagg.session import binding, input_context, survivors_digest

__all__ = ["Crew", "MeshSessions"]

_AGAIN_S = 30.0  # between two attempts to work out a round on this device
_ROOM = 1 << 20
_MOST_ANSWERS = 64  # of one round: five for each attempt

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Crew:
    """Who this member is in its sessions, and whose keys it goes by."""

    identity: Identity
    roster: Roster


class MeshSessions:
    """See `fedmesh.mesh.rounds.Sessions`. On one event loop.

    Args:
        charter, kit: of the run. crew: who this is.
        blobs: models and states. workshop: where it is trained. shelf: what outlives the process.
        why_not: why this device does not train now; empty: it does.
        answered: takes an answer that came later, as (round, attempt, answer).
        changed: called when readiness, or a session that this member leads, has changed by itself.
        refused: told in a word what was refused. events: told of the steps of a session that this member leads.
    """

    def __init__(
        self,
        charter: Charter,
        kit: Kit,
        crew: Crew,
        *,
        blobs: Blobs,
        workshop: Workshop,
        shelf: Shelf,
        why_not: Callable[[], str],
        answered: Callable[[int, int, bytes], None],
        changed: Callable[[], None],
        refused: Callable[[str], None],
        events: EventSink = ignore,
    ) -> None:
        self._charter, self._kit, self._crew = charter, kit, crew
        self._blobs, self._workshop, self._shelf = blobs, workshop, shelf
        self._why_not, self._answered, self._changed, self._refused = why_not, answered, changed, refused
        self._events = events
        self._task = kit.read_task()
        self._record = shelf.load()
        self._facts: Facts | None = None
        self._answers: dict[bytes, bytes | None] = {}
        self._working: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._before: Result | None = None
        """What the round begins with that is still to be worked out."""
        self._trouble = ""
        """Why that could not be done."""
        self._left: tuple[int, int] | None = None
        """Round and attempt in whose session this device could not do its part."""
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()

    def begin(self, before: Result) -> None:
        """The round behind `before` begins: model and state that this names are here."""
        self._before, self._trouble = before, ""
        self._news.set()
        if self._preparing is None or self._preparing.done():
            self._preparing = self._spawn(self._prepare())

    async def deliver(self, result: Result, *, last: bool) -> Mapping[str, float]:
        """Has the result's model signed in this member's repository; its figures. Raises: RoundError: it was not."""
        model = await asyncio.to_thread(self._blobs.get, result.model)
        if model is None:
            raise RoundError(f"the model of round {result.round} is not here")
        facts = {"survivors": len(result.survivors), "epsilon": result.privacy.get("epsilon"), "last": last}
        return await self._workshop.deliver(result.round, model, **facts)

    async def aclose(self) -> None:
        """Ends whatever is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._workshop.close()

    # A device among devices.

    def readiness(self, number: int, attempt: int) -> Readiness:
        """Whether this device would train in this attempt."""
        record, facts = self._record, self._facts
        if (record.round == number and record.signed is not None) or self._left == (number, attempt):
            return Readiness.OUT
        if record.round == number and attempt <= record.attempt:
            return Readiness.NEXT
        if facts is None or facts.round != number:
            return Readiness.LATER
        if not facts.affords:
            return Readiness.OUT
        return Readiness.LATER if self._why_not() else Readiness.READY

    def answer(self, number: int, attempt: int, sender: str, data: bytes) -> bytes | None:
        """This device's answer, or None: it comes later. Raises: RoundError: it is refused."""
        if data in self._answers:
            return self._answers[data]
        if len(self._answers) >= _MOST_ANSWERS:
            raise RoundError("more was asked for in one round than there is to ask")
        step, message = read_step(data, max_bytes=self._longest)
        if self._facts is None or self._facts.round != number:
            raise RoundError(f"round {number} is not worked out here yet")
        if step == "advertise":
            self._join(number, attempt, sender, message)
        else:
            self._check_turn(number, attempt, sender, step)
        self._answers[data] = None
        self._working = self._spawn(self._step(number, attempt, step, message, data))
        return None

    def signed(self, number: int) -> SetSignature | None:
        """The set of survivors that this device has signed in the round."""
        return self._record.signed if self._record.round == number else None

    def holds(self, digest: bytes) -> bool:
        """Whether this member has the model, or the state, of that SHA-256."""
        return digest in self._blobs

    def close(self, number: int) -> None:  # noqa: ARG002 - whatever is left is of that round
        """The round is over."""
        if self._working is not None:
            self._working.cancel()
        self._working, self._before, self._facts = None, None, None
        self._answers.clear()

    # Their aggregator.

    def open(self, number: int, attempt: int, cohort: tuple[str, ...], before: Result) -> Summing | None:
        """A new session; this member coordinates it. None: the round is being worked out. Raises: RoundError: not here.

        An attempt is not given up for a process that is still starting: the others wait as long as one may take.
        """
        facts = self._facts
        if facts is None or facts.round != number or facts.model != before.model:
            if self._trouble:
                raise RoundError(f"round {number} could not be worked out here: {self._trouble}")
            return None
        belongs = (facts.model, facts.scales)
        header = sums_of(self._task).header(
            number, attempt, cohort, self._kit.layout, belongs, fewest=self._charter.fewest
        )
        return self._summing(number, Aggregator(header, self._crew.identity, self._crew.roster))

    def resume(self, handover: bytes, signatures: Mapping[str, bytes]) -> Summing | None:
        """Goes on with another's session; None: there is nothing to go on with."""
        crew = self._crew
        try:
            taken = Handover.from_bytes(handover, crew.roster, max_bytes=self._longest)
            header = taken.header
            leader = self._record.leaders.get(header.attempt, "") if header.round == self._record.round else ""
            aggregator = Aggregator.resume(taken, crew.identity, crew.roster, of=leader, signatures=signatures)
        except SecAggError as error:
            _log.info("another's session is not gone on with: %s", error)
            return None
        return self._summing(header.round, aggregator, is_resumed=True)

    # What is done beside.

    async def _prepare(self) -> None:
        """Works out the round that begins; until it can be done, this device is not ready."""
        while (before := self._before) is not None:
            self._news.clear()
            try:
                facts = await self._worked_out(before.round + 1, before)
            except FedMeshError as error:
                if self._before is before:
                    self._trouble = str(error)
                    self._fail(error)
                    self._changed()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_AGAIN_S):  # wait_for of Python 3.11 may lose a cancellation
                            await self._news.wait()
                continue
            if self._before is before:  # else another round has begun meanwhile
                self._before, self._trouble = None, ""
                if self._record.round < facts.round:
                    self._keep(RoundRecord(facts.round, state=self._record.state))
                self._facts = facts
                self._changed()

    async def _worked_out(self, number: int, before: Result) -> Facts:
        digests = before.model, before.state
        model, state = await asyncio.to_thread(lambda: [self._blobs.get(digest) for digest in digests])
        if model is None or state is None:
            raise RoundError(f"round {number} begins with a model that is not here")
        facts = await self._workshop.prepare(number, model, state)
        if facts.model != before.model:
            raise RoundError(f"the model of round {number} is another than the one that was certified")
        return facts

    async def _step(self, number: int, attempt: int, step: str, message: bytes, data: bytes) -> None:
        try:
            answer, state = await self._workshop.step(number, step, message, self._record.state)
        except FedMeshError:
            self._left = number, attempt
            self._changed()  # the others need not wait as long as training may take
            raise
        signed = self._record.signed
        if step == "sign":
            signed = SetSignature(attempt, *self._signature(message, answer))
        self._keep(replace(self._record, state=state, signed=signed))
        self._answers[data] = answer
        self._answered(number, attempt, answer)

    async def _apply(self, number: int, total: bytes, weight: int) -> Applied:
        if self._facts is None or self._facts.round != number:
            raise RoundError(f"round {number} is over")
        return await self._workshop.apply(number, total, weight)

    def _join(self, number: int, attempt: int, sender: str, message: bytes) -> None:
        header = SessionHeader.from_bytes(message)
        if (header.round, header.attempt, header.task) != (number, attempt, self._task.session_name):
            raise RoundError("a session of another round, attempt or run was announced")
        if self.readiness(number, attempt) is not Readiness.READY:
            raise RoundError(f"this device does not train in attempt {attempt} of round {number}")
        if self._working is not None:
            self._working.cancel()  # nobody waits for an earlier attempt's any more
        leaders = {**self._record.leaders, attempt: sender}
        self._keep(replace(self._record, attempt=attempt, leaders=leaders, header=message))

    def _check_turn(self, number: int, attempt: int, sender: str, step: str) -> None:
        record = self._record
        if record.round != number or attempt not in record.leaders:
            raise RoundError(f"this device is in no session of attempt {attempt} of round {number}")
        if step != "unmask" and sender != record.leaders[attempt]:
            raise RoundError(f"the step {step!r} is asked for by another than who began the session")

    def _signature(self, message: bytes, answer: bytes) -> tuple[bytes, bytes]:
        """What this device has signed, and how: all of it is public, and every member is told."""
        crew, facts = self._crew, self._facts
        if facts is None:
            raise RoundError("the round is over")
        header = SessionHeader.from_bytes(self._record.header)
        survivors = tuple(names(read(message, max_bytes=self._longest).body))
        context = input_context(binding(header, crew.roster), facts.model, facts.scales)
        statement = survivors_digest(context, survivors)
        signature = unpack_body(read(answer, max_bytes=self._longest).body)["signature"]
        if not verify(crew.identity.public, signature, statement):
            raise RoundError("this device's signature is not over the set that was put to it")
        return statement, signature

    def _summing(self, number: int, aggregator: Aggregator, *, is_resumed: bool = False) -> MeshSum:
        return MeshSum(
            aggregator,
            apply=lambda total, weight: self._apply(number, total, weight),
            hold=self._blobs.put,
            spawn=self._spawn,
            changed=self._changed,
            told=lambda step, devices: self._events(StageStarted(number, step, devices)),
            is_resumed=is_resumed,
        )

    def _keep(self, record: RoundRecord) -> None:
        self._shelf.keep(record)
        self._record = record

    @property
    def _longest(self) -> int:
        """Bytes of the longest message of a session, as a bound."""
        return _ROOM + 8 * (sums_of(self._task).length(self._kit.layout) + 1)

    def _spawn(self, work: Awaitable[None]) -> Any:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: "asyncio.Future[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, FedMeshError):
            self._fail(error)
        elif error is not None:
            raise error

    def _fail(self, error: FedMeshError) -> None:
        _log.warning("the run of %s: %s", self._charter.task, error)
        self._refused(getattr(error, "code", "") or "policy")
