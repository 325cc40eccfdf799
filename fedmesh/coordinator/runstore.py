"""Many runs in one database: who runs what, how far it is, and what is asked of it. SQLite or PostgreSQL.

One coordinator at a time has a run (`journal`); anybody who may open the database can read all runs at any time, and
ask for a pause or an end (`ask`), from another process or machine.
"""

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Row as DbRow
from sqlalchemy import Select, delete, func, insert, select

from fedmesh.clock import Clock, SystemClock
from fedmesh.coordinator.chain import Row, verified
from fedmesh.coordinator.control import RunState, Wish
from fedmesh.coordinator.records import RoundRecord
from fedmesh.coordinator.run_ids import new_run_id
from fedmesh.coordinator.rundatabase import Database
from fedmesh.coordinator.runlease import held
from fedmesh.coordinator.runtables import row, run, wish
from fedmesh.coordinator.runurl import DEFAULT_URL
from fedmesh.errors import ConfigError, DecodeError

if TYPE_CHECKING:
    from fedmesh.coordinator.storedjournal import StoredJournal

__all__ = ["RunInfo", "RunStore"]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run, as a reader sees it.

    Attributes:
        id: of Flower's kind. name: not unique. rounds: planned.
        scenario: as the run was created with. facts: what its coordinator has added, by key of result.json.
        state: what the run last said about itself; reason: why it failed.
        wish: what is asked of it.
        held: whether a coordinator has it now.
        committed: number of the last committed round; -1: none yet, 0: the start.
        created, updated: Unix seconds; the latter of the last commit or change of state.
        host: that it last ran on.
    """

    id: int
    name: str
    rounds: int
    state: RunState
    reason: str
    wish: Wish
    held: bool
    committed: int
    created: float
    updated: float
    host: str
    scenario: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def key(self) -> str:
        """The id as people write it: 16 hexadecimal digits."""
        return f"{self.id:016x}"

    @property
    def condition(self) -> str:
        """The state, seen from outside: ``interrupted`` without a coordinator, ``pausing`` or ``stopping`` with one."""
        if self.state not in {RunState.RUNNING, RunState.PAUSED}:
            return self.state.value
        if not self.held:
            return "interrupted"
        if self.wish.stops:
            return "stopping"
        return "pausing" if self.wish is Wish.PAUSE and self.state is RunState.RUNNING else self.state.value


class RunStore:
    """The store. Threads may share it; a process that forks opens its own.

    Args:
        url: ``sqlite:///FILE`` (a relative one in the current folder) or ``postgresql://USER@HOST/DATABASE``.
        create: make the file and the tables where they are missing.
        clock: for waiting until a database is back.
        now: Unix seconds.
        patience_s: longest such wait of a write.

    Raises:
        ConfigError: the URL or the database cannot be used; no message holds a password.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        create: bool = True,
        clock: Clock | None = None,
        now: Callable[[], float] = time.time,
        patience_s: float = 60.0,
    ) -> None:
        self._database = Database(url, create=create)
        self._clock = SystemClock() if clock is None else clock
        self._now = now
        self._patience_s = patience_s

    def __repr__(self) -> str:
        return f"RunStore({self._database.name!r})"

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self._database.name

    def create(self, name: str, scenario: Mapping[str, Any], rounds: int) -> int:
        """A new run in the state ``created``; returns its id.

        Args:
            name: what people call it, e.g. the scenario's name.
            scenario: plain data, kept as JSON.
            rounds: planned.

        Raises:
            ConfigError: it cannot be written.
        """
        run_id, now = new_run_id(), self._now()
        values = {"id": run_id, "name": name, "scenario": json.dumps(scenario), "rounds": rounds, "facts": "{}"}
        values |= {"state": RunState.CREATED, "reason": "", "created": now, "updated": now, "host": "", "lease": 0}
        with self._database.writing() as connection:
            connection.execute(insert(run).values(**values))
            connection.execute(insert(wish).values(run=run_id, wish=Wish.RUN))
        return run_id

    def journal(self, run_id: int) -> "StoredJournal":
        """The run's journal, for this coordinator alone until it is closed.

        Raises:
            ConfigError: there is no such run, or another coordinator has it.
        """
        from fedmesh.coordinator.storedjournal import StoredJournal

        self.info(run_id)
        return StoredJournal(
            self._database,
            run_id,
            clock=self._clock,
            now=self._now,
            host=socket.gethostname(),
            patience_s=self._patience_s,
        )

    def runs(self) -> list[RunInfo]:
        """All runs, the newest first. Raises: ConfigError."""
        return self._infos(_described().order_by(run.c.created.desc(), run.c.id))

    def info(self, run_id: int) -> RunInfo:
        """One run. Raises: ConfigError: there is none with this id."""
        found = self._infos(_described().where(run.c.id == run_id))
        if not found:
            raise ConfigError(f"there is no run {run_id:016x} in {self.name}: see fedmesh runs list")
        return found[0]

    def find(self, text: str) -> RunInfo:
        """The newest run of this name, or the one whose id begins with these hexadecimal digits.

        Raises:
            ConfigError: there is none, or more than one has such an id.
        """
        runs = self.runs()
        found = [one for one in runs if one.name == text][:1]
        if not found and text:
            found = [one for one in runs if one.key.startswith(text.lower())]
        if len(found) == 1:
            return found[0]
        if not found:
            names = ", ".join(f"{one.key[:8]} ({one.name})" for one in runs[:5]) or "none"
            raise ConfigError(f"there is no run {text!r} in {self.name}; the newest are: {names}")
        keys = ", ".join(one.key for one in found[:5])
        raise ConfigError(f"{len(found)} runs are meant by {text!r}: name one by more of its id: {keys}")

    def records(self, run_id: int) -> list[RoundRecord]:
        """Every committed round of a run, from round 0, whoever has it.

        Raises:
            ConfigError: the run is damaged.
        """
        columns = select(row.c.number, row.c.record, row.c.checkpoint, row.c.digest).where(row.c.run == run_id)
        with self._database.reading() as connection:
            rows = [Row(*found) for found in connection.execute(columns.order_by(row.c.number))]
        try:
            return verified(rows)
        except DecodeError as error:
            raise ConfigError(
                f"run {run_id:016x} in {self.name} is damaged ({error}): put back a copy of the database"
            ) from error

    def ask(self, run_id: int, wanted: Wish) -> None:
        """From now on `wanted` is asked of the run; durable. Raises: ConfigError."""
        self.info(run_id)
        with self._database.writing() as connection:
            connection.execute(delete(wish).where(wish.c.run == run_id))
            connection.execute(insert(wish).values(run=run_id, wish=wanted))

    def asked(self, run_id: int) -> Wish:
        """What is asked of the run. Raises: ConfigError."""
        with self._database.reading() as connection:
            return Wish(connection.execute(select(wish.c.wish).where(wish.c.run == run_id)).scalar() or Wish.RUN)

    def close(self) -> None:
        """Closes connections; journals that are open keep theirs. Idempotent."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infos(self, query: Select[Any]) -> list[RunInfo]:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            taken = held(self._database, connection) if rows else set()
        try:
            return [_info(found, held=found.id in taken) for found in rows]
        except ValueError as error:
            raise ConfigError(f"{self.name} is damaged ({error}): put back a copy of the database") from error


def _described() -> Select[Any]:
    newest = select(func.max(row.c.number)).where(row.c.run == run.c.id).scalar_subquery()
    return select(run, wish.c.wish, newest.label("committed")).join(wish, wish.c.run == run.c.id, isouter=True)


def _info(found: DbRow[Any], *, held: bool) -> RunInfo:
    return RunInfo(
        id=found.id,
        name=found.name,
        rounds=found.rounds,
        state=RunState(found.state),
        reason=found.reason,
        wish=Wish(found.wish or Wish.RUN),
        held=held,
        committed=-1 if found.committed is None else found.committed,
        created=found.created,
        updated=found.updated,
        host=found.host,
        scenario=json.loads(found.scenario),
        facts=json.loads(found.facts),
    )
