"""A run of gossip averaging on a running node: its `Course` is called when something comes and when it is due.

One call at a time, in a thread: the masks of a large model take longer than a membership may stand still. What must not
be forgotten is on the disk (`averaging_memory`) before the next thing is done. A member that is started again goes on
with the step behind the last one that it began, from the model that it had at the end of the last one that ended.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedmesh.errors import ConfigError, FedMeshError, SecAggError
from fedmesh.events import ModelChecked, Notice, RunDeclined, RunEnded, RunJoined, StepAveraged
from fedmesh.mesh.gossip import Begin, Codes, Course, Effect, Ended, Member, Run, Say, Trains
from fedmesh.mesh.rounds import Charter
from fedmesh.peer.alarm import Alarm
from fedmesh.peer.averaging import terms_of
from fedmesh.peer.averaging_memory import Memory, Saved
from fedmesh.peer.delivering import Delivered, hand_on
from fedmesh.peer.learning import Averaging
from fedmesh.peer.run import Means
from fedmesh.secagg import Roster
from fedmesh.types import PeerId

__all__ = ["AveragingRun", "run_of"]

Call = Callable[[Course, float], list[Effect]]

_LEARNING, _STORE = "learning", "signed"
_AGAIN_S = 10.0
_REST_S = 30.0  # after a training that failed
_MOST_WAITING = 4096
_MOST_BYTES = 64 << 20
_STEPS = 8  # waits of a whole step: reports, those of secure aggregation, questions


def run_of(charter: Charter, scenario: bytes) -> Run:
    """What all members know of a charter's run. Raises: ConfigError: it cannot be read, or cannot be."""
    _, terms = terms_of(charter, scenario)
    wait_s, train_s = charter.schedule.step_s, charter.schedule.train_s
    return Run(
        id=charter.run, task=charter.task, members=charter.names, smallest=charter.fewest, grid=terms.grid,
        wait_s=wait_s, train_s=train_s, step_s=2 * train_s + _STEPS * wait_s,
    )  # fmt: skip


def _told(task: "asyncio.Task[None]") -> None:
    """A fault of ours is not kept back."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


class AveragingRun:
    """In `folder`, which is there and has the charter. As `fedmesh.peer.run.Run` to its node.

    Attributes:
        begun: when it was taken up here, on the loop's clock.
        course: the core; None: it is not begun here, what it begins with is not here yet, or it cannot go on.
        saved: what is on the disk.
    """

    def __init__(self, charter: Charter, folder: Path, means: Means) -> None:
        self.charter, self._folder, self._means = charter, folder, means
        self._loop = asyncio.get_running_loop()
        self.begun = self._loop.time()
        self.course: Course | None = None
        self.saved = Saved()
        self._memory, self._delivered = Memory(folder / _LEARNING), Delivered(folder / _LEARNING)
        self._part: Averaging | None = None
        self._alarm = Alarm(self._due)
        self._calls: deque[tuple[Call, int]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._working: asyncio.Task[None] | None = None
        self._training: asyncio.Task[None] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._to_publish: Ended | None = None
        self._trouble = ""
        self._is_ended = self._is_spent = self._closed = False

    @property
    def is_member(self) -> bool:
        """Whether this node is one of the charter's, under the key that it has now."""
        return self.charter.members.get(self._means.name) == self._means.identity.public

    @property
    def is_over(self) -> bool:
        """Whether all steps are, and the model of the last one is on the disk."""
        return self._is_ended

    @property
    def is_live(self) -> bool:
        """Whether this node takes part in it, and it goes on."""
        return self.course is not None and not self.is_over

    @property
    def named(self) -> set[bytes]:
        """What has to stay here, or to come."""
        return {self.charter.scenario} | (set() if self.is_over else {self.charter.model})

    @property
    def counts(self) -> Counter[str]:
        """What was refused or lost, by reason."""
        course, member = self.course, None if self.course is None else self.course.member
        return (
            self._counts
            + (Counter() if course is None else course.counts)
            + (Counter() if member is None else member.counts)
        )

    @property
    def status(self) -> dict[str, Any]:
        """What ``fedmesh mesh status`` says of it: `round` is the step, and there is no aggregator."""
        course, saved, steps = self.course, self.saved, self.charter.rounds
        return {
            "task": self.charter.task,
            "run": self.charter.run.hex(),
            "kind": "gossip",
            "state": self._state,
            "round": None if course is None else min(course.at, steps),
            "rounds": steps,
            "attempt": None,
            "aggregator": None,
            "results": saved.mixed,
            "void": saved.left_out + saved.unsettled,
            "unsettled": saved.unsettled,
            "here": 0 if course is None else len(course.here),
        }

    @property
    def _state(self) -> str:
        if not self.is_member:
            return "elsewhere"
        if self.course is None:
            return "stopped" if self._trouble else "waiting"
        return "over" if self.is_over else "running"

    def begin(self) -> None:
        """Takes part, as far as this node is one of the run's."""
        if self.is_member and not self._closed and self._working is None:
            self._working = self._loop.create_task(self._work())
            self._working.add_done_callback(_told)

    def received(self, sender: PeerId, data: bytes) -> None:
        """A packet of this run."""
        if self.course is not None:
            self._put(lambda course, now: course.received(sender, data, now), len(data))

    def alive_changed(self) -> None:
        """Somebody is held to be something else."""
        alive = self._means.alive(self.charter)
        self._put(lambda course, now: course.alive_changed(alive, now))

    async def aclose(self) -> None:
        """Nothing is done any more; what it needs to go on is on the disk."""
        self._closed = True
        self._alarm.cancel()
        tasks = [task for task in (self._working, self._training, self._publishing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # One call after the other.

    def _due(self) -> None:
        self._put(lambda course, now: course.tick(now))

    def _put(self, call: Call, size: int = 0) -> None:
        """In its turn. What neighbours send beyond what can wait is lost, as on a bad link."""
        if size and (len(self._calls) >= _MOST_WAITING or self._bytes + size > _MOST_BYTES):
            self._counts["busy"] += 1
            return
        self._bytes += size
        self._calls.append((call, size))
        self._news.set()

    async def _work(self) -> None:
        while True:
            try:
                await self._prepare()
                await self._serve()
            except (ConfigError, SecAggError, OSError) as error:
                self._stopped(error)
            await asyncio.sleep(_AGAIN_S)

    def _stopped(self, error: Exception) -> None:
        """It cannot go on: what is on the disk counts, and it begins again from there, if it can."""
        self.course = None
        self._alarm.cancel()
        if self._training is not None:
            self._training.cancel()
        if self._trouble != str(error):
            self._means.events(Notice(f"the run of {self.charter.task} waits: {error}"))
        self._trouble = str(error) or type(error).__name__

    async def _serve(self) -> None:
        course = self.course
        assert course is not None
        while True:
            self._alarm.set(course.due)
            await self._news.wait()
            self._news.clear()
            while self._calls:
                call, size = self._calls.popleft()
                self._bytes -= size
                for effect in await asyncio.to_thread(call, course, self._loop.time()):
                    await self._carry(effect)
            if course.is_over:
                self._end()

    async def _carry(self, effect: Effect) -> None:
        match effect:
            case Say():
                self._means.send(self.charter, effect.to, effect.data)
            case Begin():
                await asyncio.to_thread(self._memory.begin, effect.step)
                self._training = self._loop.create_task(self._train(effect.step, effect.codes))
            case Ended():
                await self._ended(effect)

    # What a run begins with.

    async def _prepare(self) -> None:
        """Gets what the run begins with, and goes on from what is on the disk."""
        means, charter = self._means, self.charter
        scenario = await self._blob(charter.scenario)
        run = await asyncio.to_thread(run_of, charter, scenario)
        folder = self._folder / _LEARNING
        folder.mkdir(mode=0o700, exist_ok=True)
        self.saved = await asyncio.to_thread(self._memory.load)
        self._calls.clear()
        self._bytes = 0
        course = Course(run, means.name, steps=charter.rounds, at=self.saved.begun + 1, max_bytes=means.max_bytes)
        self.course, self._trouble = course, ""
        self._is_ended = course.is_over
        self._put(lambda course, now: course.start(now))
        self.alive_changed()
        if course.is_over:
            self._owe_late(scenario)
            return
        facts = min(course.at, charter.rounds), charter.rounds, len(charter.members), charter.fewest
        means.events(RunJoined(charter.task, charter.run.hex(), *facts))
        if means.learning is None:
            self._put(lambda course, now: course.able(Trains.NO, now))
            return
        try:
            if self._part is None:
                self._part = means.learning.averaging(charter, scenario=scenario, changed=self._changed)
            part, codes = self._part, self.saved.model
            self._owe(part)
            if codes is None:
                codes = part.start(await self._blob(charter.model))
        except ConfigError as error:
            means.events(RunDeclined(charter.task, charter.run.hex(), str(error)))
            self._put(lambda course, now: course.able(Trains.NO, now))
            return
        course.member = Member(
            run, means.name, identity=means.identity, roster=Roster(dict(charter.members)), rule=part.rule,
            codes=codes, settled=self.saved.settled, step=self.saved.begun, floor=part.floor,
            store_path=folder / _STORE, max_bytes=means.max_bytes,
        )  # fmt: skip
        self._changed()

    async def _blob(self, digest: bytes) -> bytes:
        means = self._means
        while (found := means.blobs.get(digest)) is None:
            sources = [name for name in dict.fromkeys([self.charter.signer, *self.charter.names]) if name != means.name]
            await asyncio.wait([means.exchange.want(digest, sources)])
        return found

    def _changed(self) -> None:
        """The device rests, or not any more."""
        part = self._part
        if part is None:
            return
        trains = Trains.NO if self._is_spent or part.resting() else Trains.YES
        self._put(lambda course, now: course.able(trains, now))

    # Training, and what comes of a step.

    async def _train(self, step: int, codes: Codes) -> None:
        part = self._part
        assert part is not None
        try:
            prepared = await part.prepare(step, codes)
        except FedMeshError as error:
            self._counts[getattr(error, "code", "") or "training"] += 1
            self._means.events(Notice(f"step {step} of the run of {self.charter.task} was not trained: {error}"))
            self._put(lambda course, now: [*course.able(Trains.NO, now), *course.failed(step, now)])
            self._loop.call_later(_REST_S, self._changed_later)
            return
        if prepared is None:
            text = f"the budget for {self.charter.task} is used up: this member takes no part in its run any more"
            self._means.events(Notice(text))
            self._is_spent = True
        self._put(lambda course, now: course.trained(step, prepared, now))

    def _changed_later(self) -> None:
        if not self._closed:
            self._changed()

    async def _ended(self, ended: Ended) -> None:
        charter, names = self.charter, ended.survivors
        saved = self.saved.after(ended)
        await asyncio.to_thread(self._memory.keep, saved)
        self.saved = saved
        facts = ended.step, str(ended.outcome), len(names), ", ".join(names)
        self._means.events(StepAveraged(charter.task, charter.run.hex(), *facts))
        if self._part is not None:
            self._owe(self._part)

    @property
    def _is_owed(self) -> bool:
        """Whether the model is an average that was not delivered."""
        return bool(self.saved.survivors) and self.saved.ended > self._delivered.round

    def _owe_late(self, scenario: bytes) -> None:
        """This node ended behind the last step, before its model was delivered."""
        learning = self._means.learning
        if learning is None or not self._is_owed:
            return
        try:
            self._part = self._part or learning.averaging(self.charter, scenario=scenario, changed=self._changed)
        except ConfigError as error:
            self._means.events(Notice(f"the last model of {self.charter.task} is not delivered: {error}"))
            return
        self._owe(self._part)

    def _owe(self, part: Averaging) -> None:
        """Delivers the model, where this member signs models; the newest, where one takes longer than a step."""
        saved = self.saved
        if not part.publishes or not self._is_owed or saved.codes is None:
            return
        self._to_publish = Ended(saved.ended, "mixed", saved.survivors, saved.codes, saved.codes)
        if self._publishing is None or self._publishing.done():
            self._publishing = self._loop.create_task(self._publish(part))

    def _end(self) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        charter, steps = self.charter, self.charter.rounds
        self._means.events(RunEnded(charter.task, charter.run.hex(), steps, steps - self.saved.mixed))
        self._means.certified()
        if self._publishing is None or self._publishing.done():
            self._publishing = self._loop.create_task(self._publish(self._part))

    async def _publish(self, part: Averaging | None) -> None:
        """Signs the newest model that is an average; one that has come meanwhile takes the place of those before it."""
        if part is None:
            return
        while (ended := self._to_publish) is not None:
            self._to_publish = None
            survivors, is_last = len(ended.survivors), ended.step >= self.charter.rounds
            delivering = part.deliver(ended.step, ended.codes, survivors=survivors, last=is_last)
            what, events = f"step {ended.step}", self._means.events
            figures = await hand_on(what, ended.step, delivering, kept=self._delivered, events=events)
            if figures is not None:
                found = figures["agreement"], figures["max_abs_logit_difference"]
                events(ModelChecked(ended.step, *found))
        if self._is_ended:
            with suppress(FedMeshError):
                await part.aclose()
