"""What a device does for one run: its messages one after another, each answered once, whatever ends in between.

The order of a message's life, each step durable before the next::

    received -> begun (what may be run once only) -> run in the training process -> answered, with the node's new state,
    in one transaction -> posted -> known to be posted

A message that was begun and has no answer after a restart is answered ``restarted``: it may have been paid for. One
that was not begun is run again from the state before it; secure aggregation's store sees to it that this gives away
nothing (docs/device.md).
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from fedmesh.client.journal import Answered, DeviceJournal, KeptRun, Waiting
from fedmesh.events import EventSink, InstructionRefused, ReplyKept, ReplyPosted, TrainingBegun
from fedmesh.fleet.office import Office
from fedmesh.fleet.protocol import Reply
from fedmesh.fleet.readiness import Readiness
from fedmesh.fleet.training import Outcome, Training

__all__ = ["Shared", "Work"]

REPEATABLE = frozenset({"query.secagg"})
"""Message types that may be run again after a restart: the steps of secure aggregation besides training."""
_REFUSALS = frozenset({"limits", "malformed", "policy"})
_OWN_DOING = frozenset({"", "busy"})  # the load of a training that is under way keeps no later one of the run away

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the runs of a device share.

    Attributes:
        journal, office, readiness: of the device. events: told what happens.
        training: held by the one run that trains.
    """

    journal: DeviceJournal
    office: Office
    readiness: Readiness
    events: EventSink
    training: asyncio.Lock


class Work:
    """One run.

    Args:
        kept: the run.
        training: its process, which is started when it is needed.
        shared: with the other runs.
    """

    def __init__(self, kept: KeptRun, training: Training, shared: Shared) -> None:
        self.kept, self._training, self._shared = kept, training, shared
        self._news = asyncio.Event()
        self._asking: tuple[str, asyncio.Task[Outcome]] | None = None
        self._again: set[str] = set()
        self._stopping = False

    async def run(self) -> None:
        """Answers messages until `stop`."""
        try:
            while not self._stopping:
                if self._again:
                    await self._post(self._again.pop())
                elif (item := self._shared.journal.waiting(self.kept.run)) is not None:
                    await self._deal(item)
                else:
                    await self._idle()
        finally:
            self._training.close()

    @property
    def has_process(self) -> bool:
        """Whether the process that trains is there."""
        return self._training.pid is not None

    def warm_up(self) -> None:
        """A message will come soon: the process that deals with it is started now."""
        self._training.warm_up()

    def wake(self) -> None:
        """A message has come."""
        self._news.set()

    def post_again(self, message: str) -> None:
        """The reply to a message was asked for once more."""
        self._again.add(message)
        self._news.set()

    def stop(self) -> None:
        """No further message is begun; `run` returns when the present one is answered."""
        self._stopping = True
        self._news.set()

    def abandon(self, messages: Collection[str]) -> None:
        """Nobody waits for these: what waits is not begun, and a training that is under way is ended."""
        self._shared.journal.abandon(self.kept.run, list(messages))
        if self._asking is not None and self._asking[0] in messages:
            self._asking[1].cancel()

    async def _idle(self) -> None:
        self._news.clear()
        if self._again or self._shared.journal.waiting(self.kept.run) is not None or self._stopping:
            return
        await self._news.wait()

    async def _deal(self, item: Waiting) -> None:
        if item.what in REPEATABLE:
            await self._run(item)
        else:
            async with self._shared.training:
                if self._stopping:
                    return  # the next process runs it
                if await self._shared.readiness.why_not() not in _OWN_DOING:
                    self._answer(item, Outcome("unavailable"))
                else:
                    await self._run(item)
        await self._post(item.message)  # others train meanwhile: a coordinator that takes nothing keeps itself waiting

    async def _run(self, item: Waiting) -> None:
        journal, left_s = self._shared.journal, item.expires - self._shared.office.now()
        if left_s <= 0 or item.message not in journal.outstanding(item.run):
            journal.abandon(item.run, [item.message])
            return
        if item.what not in REPEATABLE:
            journal.begin(item.run, item.message)
            self._shared.events(TrainingBegun(item.run, item.round))
        outcome = await self._asked(item, left_s)
        if outcome is None:
            return
        if item.what not in REPEATABLE or outcome.error:
            self._shared.readiness.ended(well=outcome.error not in {"crashed", "limits"})
        self._answer(item, outcome)

    async def _asked(self, item: Waiting, left_s: float) -> Outcome | None:
        """What came of it; None: it was abandoned meanwhile."""
        head = {"message": item.message, "what": item.what, "round": item.round}
        state = self._shared.journal.state(item.run)
        asking = asyncio.ensure_future(self._training.ask(head, state, item.envelope, timeout_s=left_s))
        if item.what not in REPEATABLE:
            self._asking = (item.message, asking)
        try:
            await asyncio.wait([asking])
        except asyncio.CancelledError:
            asking.cancel()
            await asyncio.wait([asking])
            raise
        finally:
            self._asking = None
        return None if asking.cancelled() else asking.result()

    def _answer(self, item: Waiting, outcome: Outcome) -> None:
        journal = self._shared.journal
        journal.answer(item.run, item.message, reply=outcome.reply, error=outcome.error, state=outcome.state)
        self._shared.events(ReplyKept(item.run, item.round, item.what, outcome.error))
        if refused := outcome.refused or (outcome.error if outcome.error in _REFUSALS else ""):
            self._shared.events(InstructionRefused(item.run, refused))

    async def _post(self, message: str) -> None:
        if (answered := self._shared.journal.answered(self.kept.run, message)) is not None:
            await self.post(answered)

    async def post(self, answered: Answered) -> None:
        """Sends a reply, perhaps again."""
        office, body = self._shared.office, Reply(answered.run, answered.message, answered.error)
        left_s = answered.expires - office.now()
        if await office.post(self.kept.coordinator, body, expires_in_s=left_s, parts=answered.reply):
            self._shared.journal.posted(answered.run, answered.message)
            self._shared.events(ReplyPosted(answered.run))
