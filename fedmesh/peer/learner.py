"""What trains on a member that has data: for each run a process of its own, one of which trains at a time.

The operator's tables decide, as they do for a coordinator's offers: a run whose task they refuse is declined, and this
member votes in it without training. While the device rests (battery, hours, load) it is not ready, and votes.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedmesh.client.policy import floor_of, refusal
from fedmesh.configuration import PeerConfig
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.events import EventSink, InstructionRefused, ModelChecked, ignore
from fedmesh.fleet.kit import Kit
from fedmesh.fleet.readiness import Readiness
from fedmesh.fleet.training import IDLE_S, Training
from fedmesh.identity import Membership
from fedmesh.mesh.rounds import Certificate, Charter, Result
from fedmesh.peer.averaging import Averager, check_groups, terms_of
from fedmesh.peer.delivering import Delivered, Delivering
from fedmesh.peer.learning import Blobs
from fedmesh.peer.round_record import Shelf
from fedmesh.peer.sessions import Crew, MeshSessions
from fedmesh.peer.sizes import check_averaged, check_input
from fedmesh.peer.workshop import Workshop
from fedmesh.secagg import Identity, Roster

__all__ = ["Learner", "run_number"]

_MODULE = "fedmesh.fleet.mesh_child"
_LOOK_S = 10.0


def run_number(charter: Charter) -> int:
    """The run's id among Flower's, 2^61 to 2^62 - 1: all are of one length on the wire."""
    return int.from_bytes(charter.run[:8], "big") >> 3 | 1 << 61


class Learner:
    """See `fedmesh.peer.learning.Learning`.

    Args:
        config: of the operator, with ``[data]``. tables, folder: what it was read from, for the process that trains.
        membership: who this is. events: told what is refused.

    Raises:
        ConfigError: there is nothing to train on.
    """

    def __init__(
        self,
        config: PeerConfig,
        membership: Membership,
        *,
        tables: dict[str, Any],
        folder: Path,
        events: EventSink = ignore,
    ) -> None:
        if config.data is None:
            raise ConfigError("a member without [data] has nothing to train on")
        self._config, self._membership, self._tables, self._folder = config, membership, tables, folder
        self._events = events
        self._readiness = Readiness(config.eligibility)
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[bytes, MeshSessions] = {}
        self._averagers: list[Averager] = []
        self._delivering: dict[bytes, Delivering] = {}
        self._resting = "not looked at yet"
        self._changed: list[Callable[[], None]] = []
        self._looking = self._loop.create_task(self._look())
        self.counts: Counter[str] = Counter()
        """What was refused in runs, by reason."""

    def sessions(
        self,
        charter: Charter,
        *,
        scenario: bytes,
        blobs: Blobs,
        folder: Path,
        answered: Callable[[int, int, bytes], None],
        changed: Callable[[], None],
    ) -> MeshSessions:
        """This device's part in a run. Raises: ConfigError: it declines the run."""
        try:
            kit = Kit.from_bytes(scenario)
            self._check_task(charter, kit)
        except DecodeError as error:
            raise ConfigError(f"the run of {charter.task!r} cannot be read: {error}") from error
        check_input(kit, len(charter.members), self._config.limits.message_mb)
        membership = self._membership
        crew = Crew(Identity(membership.signing_key()), Roster(membership.roster.keys))

        sessions = MeshSessions(
            charter,
            kit,
            crew,
            blobs=blobs,
            workshop=self._workshop(charter, kit),
            shelf=Shelf(folder),
            why_not=lambda: self._resting,
            answered=answered,
            changed=changed,
            refused=lambda why: self._refuse(charter, why),
            events=self._events,
        )
        self._sessions[charter.hash] = sessions
        self._delivering[charter.hash] = Delivering(
            (lambda result, last: self._deliver(sessions, result, last)) if self._config.publish is not None else None,
            is_here=sessions.holds,
            kept=Delivered(folder),
            over=lambda: self._over(charter),
            events=self._events,
        )
        self._changed.append(changed)
        return sessions

    def averaging(self, charter: Charter, *, scenario: bytes, changed: Callable[[], None]) -> Averager:
        """This device's part in a run of gossip averaging. Raises: ConfigError: it declines the run."""
        try:
            kit, terms = terms_of(charter, scenario)
            self._check_task(charter, kit)
        except DecodeError as error:
            raise ConfigError(f"the run of {charter.task!r} cannot be read: {error}") from error
        floor = floor_of(self._config, None)
        check_groups(charter, floor)
        found = Averager(self._config, kit, terms, floor, self._workshop(charter, kit), lambda: self._resting)
        check_averaged(kit, len(charter.members), self._config.limits.message_mb)
        self._averagers.append(found)
        self._changed.append(changed)
        return found

    def certified(self, charter: Charter, certificate: Certificate, blobs: Blobs) -> None:  # noqa: ARG002
        """A round is over: its model is delivered, where this member has a repository of models.

        Behind the last round the process that trained is not needed any more.
        """
        result, delivering = certificate.result, self._delivering.get(charter.hash)
        if delivering is not None:
            delivering.certified(result, last=result.round >= charter.rounds)

    def owes(self, certificate: Certificate, folder: Path) -> bool:
        """Whether the model of this result was not delivered, though this member has a repository of models."""
        result, publishes = certificate.result, self._config.publish is not None
        return publishes and not result.is_void and result.round > Delivered(folder).round

    async def _deliver(self, sessions: MeshSessions, result: Result, last: bool) -> None:
        figures = await sessions.deliver(result, last=last)
        self._events(ModelChecked(result.round, figures["agreement"], figures["max_abs_logit_difference"]))

    async def _over(self, charter: Charter) -> None:
        self._delivering.pop(charter.hash, None)
        if (sessions := self._sessions.pop(charter.hash, None)) is not None:
            await sessions.aclose()

    async def aclose(self) -> None:
        """Ends what trains."""
        self._looking.cancel()
        with suppress(asyncio.CancelledError):
            await self._looking
        for delivering in self._delivering.values():
            await delivering.aclose()
        for sessions in self._sessions.values():
            await sessions.aclose()
        for averager in self._averagers:
            await averager.aclose()

    def _check_task(self, charter: Charter, kit: Kit) -> None:
        """Raises: ConfigError: the task is another one, or the operator's tables do not allow it. DecodeError."""
        task = kit.read_task()
        if task.name != charter.task:
            raise ConfigError(f"the run of {charter.task!r} is about the task {task.name!r}")
        if why := refusal(self._config, kit.client, task):
            raise ConfigError(f"the operator's tables do not allow the run of {charter.task!r}: {why}")

    def _workshop(self, charter: Charter, kit: Kit) -> Workshop:
        return Workshop(self._training(charter, kit), timeout_s=2 * charter.schedule.train_s)

    def _training(self, charter: Charter, kit: Kit) -> Training:
        limits = self._config.limits
        spec = {
            "run": run_number(charter),
            "members": list(charter.names),
            "client": kit.client,
            "scenario": dict(kit.scenario),
            "layout": [[name, list(shape)] for name, shape in zip(kit.layout.names, kit.layout.shapes, strict=True)],
            "tables": self._tables,
            "folder": str(self._folder),
            "memory_mb": limits.memory_mb,
            "nice": limits.nice,
        }
        parts = (kit.task, kit.features)
        # Who waits for the others' training has no time to start another for the next step.
        idle_s = max(IDLE_S, charter.schedule.train_s)
        return Training(spec, parts, max_bytes=limits.message_mb << 20, module=_MODULE, idle_s=idle_s)

    async def _look(self) -> None:
        """Whether the device works now, by its operator's rules."""
        while True:
            why = await self._readiness.why_not()
            if why != self._resting:
                self._resting = why
                for told in self._changed:
                    told()
            await asyncio.sleep(_LOOK_S)

    def _refuse(self, charter: Charter, why: str) -> None:
        self.counts[why] += 1
        self._events(InstructionRefused(run_number(charter), why))
