"""A run's journal in the store of runs: `RoundJournal` over tables that other runs share.

A database that is away for a moment is waited for; a commit whose answer was lost is looked up, never repeated.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from flwr.app import ArrayRecord
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from fedmesh.clock import Clock
from fedmesh.coordinator.chain import Row, follow, verified
from fedmesh.coordinator.checkpoint import Checkpoint, Entry, State
from fedmesh.coordinator.records import RoundRecord
from fedmesh.coordinator.rundatabase import Database, UnreachableError
from fedmesh.coordinator.runlease import Lease, lease_on
from fedmesh.coordinator.runtables import attempt, model, node, row, run
from fedmesh.errors import ConfigError, DecodeError

__all__ = ["StoredJournal"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class StoredJournal:
    """The journal of one run, taken for this coordinator alone. `RunStore.journal` makes it.

    Args:
        database: of the store.
        run_id: a run that is in it.
        clock: for pauses while the database is away.
        now: Unix seconds.
        host: of this coordinator, shown to operators.
        patience_s: longest that a write waits for a database that is away.

    Raises:
        ConfigError: another coordinator has the run, or the database cannot be used.
    """

    def __init__(
        self, database: Database, run_id: int, *, clock: Clock, now: Callable[[], float], host: str, patience_s: float
    ) -> None:
        self._database = database
        self._run_id = run_id
        self._clock = clock
        self._now = now
        self._patience_s = patience_s
        self._name = f"run {run_id:016x} in {database.name}"
        self._digests: dict[int, bytes] | None = None  # of the nodes' states, once they are known
        self._lease: Lease = lease_on(database, run_id)
        self._take()
        try:
            with database.writing() as connection:
                connection.execute(update(run).where(run.c.id == run_id).values(lease=run.c.lease + 1, host=host))
                self._number = connection.execute(select(run.c.lease).where(run.c.id == run_id)).scalar_one()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"StoredJournal({self._name!r})"

    @property
    def run_id(self) -> int:
        """The run's id."""
        return self._run_id

    def commit(
        self,
        record: RoundRecord,
        arrays: ArrayRecord,
        *,
        strategy: bytes = b"",
        states: Mapping[int, bytes] | None = None,
    ) -> None:
        """See `RoundJournal.commit`."""
        if self._digests is None:
            self.last()
        entry = Entry.of(record, arrays, strategy, states, self._digests or {})
        self._durably(lambda connection: self._insert(connection, entry))
        self._digests = entry.digests

    def next_attempt(self, number: int) -> int:
        """See `RoundJournal.next_attempt`."""
        return self._durably(lambda connection: self._next_attempt(connection, number))

    def last(self) -> Checkpoint | None:
        """See `RoundJournal.last`."""
        with self._database.reading() as connection:
            rows = self._rows(connection)
            columns = select(model.c.arrays, model.c.strategy).where(model.c.run == self._run_id)
            found = connection.execute(columns).one_or_none()
            nodes = connection.execute(select(node.c.id, node.c.state).where(node.c.run == self._run_id)).all()
        if not rows:
            return None
        try:
            state = State.of(verified(rows)[-1], rows[-1].checkpoint, found, nodes)
        except DecodeError as error:
            raise self._damaged(error) from error
        self._digests = state.digests
        return state.checkpoint

    def records(self) -> list[RoundRecord]:
        """See `RoundJournal.records`."""
        with self._database.reading() as connection:
            rows = self._rows(connection)
        try:
            return verified(rows)
        except DecodeError as error:
            raise self._damaged(error) from error

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Adds what ``fedmesh runs show`` tells beyond the rounds, by key of docs/result.md; durable.

        Args:
            facts: plain data, none of a single device. Later ones take the place of earlier ones of the same key.
        """

        def write(connection: Connection) -> None:
            known = json.loads(connection.execute(select(run.c.facts).where(run.c.id == self._run_id)).scalar_one())
            text = json.dumps({**known, **facts}, allow_nan=False)
            connection.execute(update(run).where(run.c.id == self._run_id).values(facts=text))

        self._durably(write)

    def write_run(self, **values: str) -> None:
        """Sets columns of the run, durably."""

        def write(connection: Connection) -> None:
            connection.execute(update(run).where(run.c.id == self._run_id).values(updated=self._now(), **values))

        self._durably(write)

    def close(self) -> None:
        """See `RoundJournal.close`."""
        self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> None:
        if not self._lease.take():
            raise ConfigError(f"{self._name} cannot be opened: another coordinator runs it. Stop that first")

    def _durably(self, work: Callable[[Connection], _T]) -> _T:
        """What `work` gives, done in one transaction, as soon as there is a database; `work` bears being repeated."""
        end, pause = self._clock.now() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                self._take()
                with self._database.writing() as connection:
                    self._check_owner(connection)
                    result = work(connection)
            except UnreachableError as error:
                if self._clock.now() + pause > end:
                    raise
                _LOG.warning("waiting for the journal: %s", error)
                self._clock.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                return result

    def _check_owner(self, connection: Connection) -> None:
        """Locks the run's row, and sees that nobody has taken the run over."""
        number = connection.execute(select(run.c.lease).where(run.c.id == self._run_id).with_for_update()).scalar()
        if number != self._number:
            raise ConfigError(
                f"{self._name} is another coordinator's by now: it was taken over while this one did not reach the "
                "database. This one stops; what was committed is safe"
            )

    def _insert(self, connection: Connection, entry: Entry) -> None:
        mine = row.c.run == self._run_id
        columns = select(row.c.number, row.c.record, row.c.checkpoint, row.c.digest).where(mine)
        newest = connection.execute(columns.order_by(row.c.number.desc()).limit(1)).one_or_none()
        before = Row(-1, "", b"", b"") if newest is None else Row(*newest)
        if (before.number, before.record, before.checkpoint) == (entry.number, entry.text, entry.checkpoint):
            return  # the answer to this very commit was lost
        if entry.number != before.number + 1:
            raise ConfigError(
                f"round {entry.number} was to be committed to {self._name}, which wants round {before.number + 1}"
            )
        digest = follow(before.digest, entry.text, entry.checkpoint)
        values = {"number": entry.number, "record": entry.text, "checkpoint": entry.checkpoint, "digest": digest}
        connection.execute(insert(row).values(run=self._run_id, **values))
        connection.execute(delete(model).where(model.c.run == self._run_id))
        connection.execute(insert(model).values(run=self._run_id, arrays=entry.model, strategy=entry.strategy))
        if dropped := [*entry.gone, *entry.changed]:
            one = delete(node).where(node.c.run == self._run_id, node.c.id == bindparam("name"))
            connection.execute(one, [{"name": name} for name in dropped])
        if entry.changed:
            rows = [{"run": self._run_id, "id": name, "state": state} for name, state in entry.changed.items()]
            connection.execute(insert(node), rows)
        connection.execute(update(run).where(run.c.id == self._run_id).values(updated=self._now()))

    def _next_attempt(self, connection: Connection, number: int) -> int:
        mine = attempt.c.run == self._run_id
        given = connection.execute(select(attempt.c.number).where(mine, attempt.c.round == number)).scalar()
        connection.execute(delete(attempt).where(mine, (attempt.c.round == number) | (attempt.c.round < number - 2)))
        following = 1 if given is None else int(given) + 1
        connection.execute(insert(attempt).values(run=self._run_id, round=number, number=following))
        return following

    def _rows(self, connection: Connection) -> list[Row]:
        columns = select(row.c.number, row.c.record, row.c.checkpoint, row.c.digest).where(row.c.run == self._run_id)
        return [Row(*found) for found in connection.execute(columns.order_by(row.c.number))]

    def _damaged(self, error: DecodeError) -> ConfigError:
        return ConfigError(
            f"{self._name} is damaged ({error}): it cannot be resumed. Put back a copy of the database, or start a "
            "new run"
        )
