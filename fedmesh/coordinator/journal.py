"""One run's journal in a file of its own: after `commit` returns a round has happened, before that it has not.

One SQLite transaction a round holds the arrays, the round's record, the strategy's state and the states of the fleet's
nodes. A process killed at any moment finds the last committed round again, whole. Records are chained by SHA-256, and
what a resumed run reads is checked against the chain: a damaged journal is refused, never guessed at. There is no
signature: whoever can write the file can write another journal.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from flwr.app import ArrayRecord

from fedmesh.coordinator.chain import Row, follow, verified
from fedmesh.coordinator.checkpoint import Checkpoint, Entry, State
from fedmesh.coordinator.records import RoundRecord
from fedmesh.coordinator.run_ids import new_run_id
from fedmesh.errors import ConfigError, DecodeError

__all__ = ["Journal"]

FORMAT = 1

_SCHEMA = """
CREATE TABLE journal (format INTEGER NOT NULL, run_id INTEGER NOT NULL);
CREATE TABLE round (number INTEGER PRIMARY KEY, record TEXT NOT NULL, checkpoint BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE model (one INTEGER PRIMARY KEY CHECK (one = 1), arrays BLOB NOT NULL, strategy BLOB NOT NULL);
CREATE TABLE node (id TEXT PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE attempt (round INTEGER PRIMARY KEY, number INTEGER NOT NULL);
"""
_TABLES = {"journal", "round", "model", "node", "attempt"}
_FIRST_TABLES = _TABLES - {"attempt"}  # journals from before secure aggregation


class Journal:
    """A journal file, or one in memory. It belongs to one process at a time.

    Args:
        path: the file, created if it is not there; None keeps it in memory.

    Raises:
        ConfigError: the file cannot be used, is another process's, is damaged, or is not a journal.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._name = "the journal in memory" if path is None else str(path)
        self._digests: dict[int, bytes] | None = None  # of the nodes' states, once they are known
        with self._explained("opened"):
            fresh = path is not None and not path.exists()
            self._db = sqlite3.connect(":memory:" if path is None else path, timeout=1.0, isolation_level=None)
            if path is not None and fresh:  # in a simulation devices' states are in it: for nobody else to read
                path.chmod(0o600)
        try:
            with self._explained("opened"):
                self._open()
        except BaseException:
            self._db.close()
            raise

    @property
    def run_id(self) -> int:
        """The run's id: nodes keep their Contexts under it."""
        return self._run_id

    def commit(
        self,
        record: RoundRecord,
        arrays: ArrayRecord,
        *,
        strategy: bytes = b"",
        states: Mapping[int, bytes] | None = None,
    ) -> None:
        """Makes a round durable: all of it, or on an error nothing.

        Raises:
            ConfigError: the file cannot be written, e.g. the disk is full, or the round does not follow the last.
        """
        expected = self._last_number() + 1
        if record.round != expected:
            raise ConfigError(f"round {record.round} was to be committed to {self._name}, which wants round {expected}")
        if self._digests is None:
            self.last()
        entry = Entry.of(record, arrays, strategy, states, self._digests or {})
        with self._explained("written"), self._transaction():
            digest = follow(self._last_digest(), entry.text, entry.checkpoint)
            row = (entry.number, entry.text, entry.checkpoint, digest)
            self._db.execute("INSERT INTO round VALUES (?, ?, ?, ?)", row)
            self._db.execute("INSERT OR REPLACE INTO model VALUES (1, ?, ?)", (entry.model, entry.strategy))
            self._db.executemany("DELETE FROM node WHERE id = ?", [(name,) for name in entry.gone])
            self._db.executemany("INSERT OR REPLACE INTO node VALUES (?, ?)", entry.changed.items())
        self._digests = entry.digests

    def next_attempt(self, number: int) -> int:
        """The number of the next attempt at round `number`, from 1: durable before it is returned, never given twice.

        Devices refuse an attempt that they know already, also one from before this process was started.

        Raises:
            ConfigError: the file cannot be written.
        """
        with self._explained("written"), self._transaction():
            row = self._db.execute("SELECT number FROM attempt WHERE round = ?", (number,)).fetchone()
            attempt = 1 if row is None else int(row[0]) + 1
            self._db.execute("INSERT OR REPLACE INTO attempt VALUES (?, ?)", (number, attempt))
            self._db.execute("DELETE FROM attempt WHERE round < ?", (number - 2,))  # committed long ago
        return attempt

    def last(self) -> Checkpoint | None:
        """The last committed round, None before the first.

        Raises:
            ConfigError: the journal is damaged.
        """
        records = self.records()
        if not records:
            return None
        with self._explained("read"):
            model = self._db.execute("SELECT arrays, strategy FROM model").fetchone()
            nodes = self._db.execute("SELECT id, state FROM node").fetchall()
            (checkpoint,) = self._db.execute("SELECT checkpoint FROM round ORDER BY number DESC LIMIT 1").fetchone()
        try:
            state = State.of(records[-1], checkpoint, model, nodes)
        except DecodeError as error:
            raise self._damaged(str(error)) from error
        self._digests = state.digests
        return state.checkpoint

    def records(self) -> list[RoundRecord]:
        """Every committed round, from round 0.

        Raises:
            ConfigError: the journal is damaged.
        """
        with self._explained("read"):
            rows = self._db.execute("SELECT number, record, checkpoint, digest FROM round ORDER BY number").fetchall()
        try:
            return verified(Row(*row) for row in rows)
        except DecodeError as error:
            raise self._damaged(str(error)) from error

    def close(self) -> None:
        """Lets other processes in; idempotent."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        # Two coordinators on one run would both commit: the first keeps the file to itself until it closes it.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA synchronous = EXTRA")  # FULL, and the directory after the rollback journal is gone
        with self._transaction():
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                self._create()
            elif tables == _FIRST_TABLES:
                self._db.execute(_SCHEMA.strip().split("\n")[-1])
        if tables and tables not in (_TABLES, _FIRST_TABLES):
            raise ConfigError(f"{self._name} is an SQLite file, but not a journal of fedmesh: name another directory")
        if tables:
            faults = [row[0] for row in self._db.execute("PRAGMA quick_check(1)").fetchall() if row[0] != "ok"]
            if faults:
                raise self._damaged(faults[0])
        row = self._db.execute("SELECT format, run_id FROM journal").fetchone()
        if row is None or row[0] != FORMAT:
            found = "none" if row is None else row[0]
            raise ConfigError(f"{self._name} is of format {found}, this fedmesh reads {FORMAT}: use the one it is from")
        self._run_id = int(row[1])

    def _create(self) -> None:
        for statement in _SCHEMA.strip().split("\n"):
            self._db.execute(statement)
        self._db.execute("INSERT INTO journal VALUES (?, ?)", (FORMAT, new_run_id()))

    def _last_number(self) -> int:
        with self._explained("read"):
            row = self._db.execute("SELECT MAX(number) FROM round").fetchone()
        return -1 if row[0] is None else int(row[0])

    def _last_digest(self) -> bytes:
        row = self._db.execute("SELECT digest FROM round ORDER BY number DESC LIMIT 1").fetchone()
        return b"" if row is None else bytes(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN EXCLUSIVE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite rolls back by itself when the disk is full
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """SQLite's errors, said to the operator."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ConfigError(f"{self._name} cannot be {done}: {error}. {_advice(str(error))}") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._name} is damaged ({why}): the run cannot be resumed from it. Put back a copy, or start "
            "a new run in another directory"
        )


def _advice(error: str) -> str:
    if "locked" in error:
        return "Another process runs this federation: stop it first"
    if "full" in error:
        return "Make room on the disk and resume: the last committed round is safe"
    if "readonly" in error or "unable to open" in error:
        return "Name a directory that exists and that you may write to"
    return "The last committed round is safe"
