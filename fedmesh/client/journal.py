"""What a device remembers of the runs that it takes part in, so that nothing is done twice or lost: a SQLite file.

Guaranteed, also after ``kill -9`` or a power cut: a message that was received is answered, unless it was abandoned or
has expired; a message is answered by one reply, however often it comes; a message that may be run once only is begun
once; a reply and the state of the device's node after it are there together or not at all. Every method is durable when
it returns.

Bounded: replies go when their messages have expired, everything of a run goes with the run. It holds what error
feedback carries over, which is a function of the device's data: the file is its owner's alone.
"""

import itertools
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedmesh.errors import ConfigError, PeerError

__all__ = ["Answered", "DeviceJournal", "KeptRun", "Waiting"]

Buffer = bytes | memoryview

MAX_RUNS = 8
"""Runs at a time."""
MAX_MESSAGES = 64
"""Messages of a run that wait."""
_MAX_REMEMBERED = 100_000  # of one run
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run INTEGER PRIMARY KEY, coordinator TEXT NOT NULL, offer BLOB NOT NULL, task BLOB NOT NULL, features BLOB NOT NULL,
    state BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, message TEXT NOT NULL, what TEXT NOT NULL,
    round INTEGER NOT NULL, expires REAL NOT NULL, stage TEXT NOT NULL, envelope BLOB, reply BLOB, error TEXT NOT NULL,
    posted INTEGER NOT NULL, UNIQUE (run, message)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run that the device takes part in.

    Attributes:
        run: its id; coordinator: who offered it, and may instruct. offer: the fields of the offer.
        task: `Task.to_plain` as CBOR, features: a feature map or nothing; both as they came.
    """

    run: int
    coordinator: str
    offer: bytes
    task: bytes
    features: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is to be run. expires: Unix seconds; envelope: metadata first."""

    run: int
    message: str
    what: str
    round: int
    expires: float
    envelope: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """A message that was answered. reply: an envelope, metadata first; nothing where there is an error."""

    run: int
    message: str
    expires: float
    reply: tuple[bytes, ...]
    error: str


class DeviceJournal:
    """The journal at `path`, created (0600) if there is none. For one process, and for one thread at a time.

    Raises:
        ConfigError: it cannot be opened, or is damaged; so does every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode=TRUNCATE", "synchronous=FULL", "temp_store=MEMORY"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Lets go of the file; idempotent."""
        self._connection.close()

    def keep(self, kept: KeptRun) -> None:
        """Remembers a run; the state of its node stays, if it was known.

        Raises:
            PeerError: it is somebody else's, or there are too many.
        """
        with self._transaction() as rows:
            known = rows.execute("SELECT coordinator FROM runs WHERE run = ?", (kept.run,)).fetchone()
            if known is not None and known[0] != kept.coordinator:
                raise PeerError(f"{kept.coordinator} offers run {kept.run}, which is one of {known[0]}")
            (others,) = rows.execute("SELECT count(*) FROM runs WHERE run != ?", (kept.run,)).fetchone()
            if others >= MAX_RUNS:
                raise PeerError(f"run {kept.run} is offered, and {others} are under way: at most {MAX_RUNS} are")
            rows.execute(
                "INSERT INTO runs (run, coordinator, offer, task, features) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (run) DO UPDATE SET offer = excluded.offer, task = excluded.task, "
                "features = excluded.features",
                (kept.run, kept.coordinator, kept.offer, kept.task, kept.features),
            )

    def run(self, run: int) -> KeptRun | None:
        """The run; None if the device takes no part in it."""
        return next((kept for kept in self.runs() if kept.run == run), None)

    def runs(self) -> list[KeptRun]:
        """All that are not over."""
        with self._explained():
            found = self._connection.execute(
                "SELECT run, coordinator, offer, task, features FROM runs ORDER BY run"
            ).fetchall()
        return [KeptRun(*row) for row in found]

    def stale(self, before: float) -> list[int]:
        """Runs that were asked for something, the last of which was of no use any more at `before`; oldest first."""
        with self._explained():
            found = self._connection.execute(
                "SELECT run FROM messages GROUP BY run HAVING max(expires) < ? ORDER BY max(expires)", (before,)
            ).fetchall()
        return [run for (run,) in found]

    def forget(self, run: int) -> None:
        """The run is over: everything of it goes."""
        with self._transaction() as rows:
            rows.execute("DELETE FROM messages WHERE run = ?", (run,))
            rows.execute("DELETE FROM runs WHERE run = ?", (run,))

    def receive(self, item: Waiting) -> bool:
        """Takes a message on, to be run after those that wait; False: it came before.

        Raises:
            PeerError: too many of the run wait.
        """
        with self._transaction() as rows:
            known, waiting = rows.execute(
                "SELECT count(*), count(*) FILTER (WHERE stage = 'waiting') FROM messages WHERE run = ?", (item.run,)
            ).fetchone()
            if rows.execute(
                "SELECT 1 FROM messages WHERE run = ? AND message = ?", (item.run, item.message)
            ).fetchone():
                return False
            if waiting >= MAX_MESSAGES or known >= _MAX_REMEMBERED:
                raise PeerError(f"{waiting} messages of run {item.run} wait, of {known}: no more are taken on")
            rows.execute(
                "INSERT INTO messages (run, message, what, round, expires, stage, envelope, error, posted) "
                "VALUES (?, ?, ?, ?, ?, 'waiting', ?, '', 0)",
                (item.run, item.message, item.what, item.round, item.expires, _joined(item.envelope)),
            )
        return True

    def waiting(self, run: int) -> Waiting | None:
        """The message that is next; None: none waits."""
        with self._explained():
            row = self._connection.execute(
                "SELECT run, message, what, round, expires, envelope FROM messages "
                "WHERE run = ? AND stage = 'waiting' ORDER BY number LIMIT 1",
                (run,),
            ).fetchone()
        if row is None:
            return None
        item, message, what, number, expires, envelope = row
        return Waiting(item, message, what, number, expires, _split(envelope))

    def begin(self, run: int, message: str) -> None:
        """The message is about to be run, once in its life."""
        with self._transaction() as rows:
            rows.execute(
                "UPDATE messages SET stage = 'begun', envelope = NULL WHERE run = ? AND message = ?", (run, message)
            )

    def answer(
        self, run: int, message: str, *, reply: Sequence[Buffer] = (), error: str = "", state: bytes | None = None
    ) -> None:
        """What came of a message, and with it the state of the run's node; None: it is as it was."""
        with self._transaction() as rows:
            rows.execute(
                "UPDATE messages SET stage = 'answered', envelope = NULL, reply = ?, error = ? "
                "WHERE run = ? AND message = ? AND stage != 'answered'",
                (_joined(reply), error, run, message),
            )
            if state is not None:
                rows.execute("UPDATE runs SET state = ? WHERE run = ?", (state, run))

    def answered(self, run: int, message: str) -> Answered | None:
        """The reply to a message; None: there is none, or it is not kept any more."""
        found = self._answers("run = ? AND message = ? AND reply IS NOT NULL", (run, message))
        return found[0] if found else None

    def unposted(self) -> list[Answered]:
        """Replies of which it is not known that they were sent, oldest first."""
        return self._answers("stage = 'answered' AND posted = 0 AND reply IS NOT NULL", ())

    def posted(self, run: int, message: str) -> None:
        """The reply is the transport's now."""
        with self._transaction() as rows:
            rows.execute("UPDATE messages SET posted = 1 WHERE run = ? AND message = ?", (run, message))

    def state(self, run: int) -> bytes:
        """The state of the run's node; empty at first."""
        with self._explained():
            row = self._connection.execute("SELECT state FROM runs WHERE run = ?", (run,)).fetchone()
        return b"" if row is None else bytes(row[0])

    def abandon(self, run: int, messages: Sequence[str]) -> None:
        """Nobody waits for these: they are not run, and not answered."""
        with self._transaction() as rows:
            rows.executemany(
                "UPDATE messages SET stage = 'answered', envelope = NULL, reply = NULL, posted = 1 "
                "WHERE run = ? AND message = ?",
                [(run, message) for message in messages],
            )

    def outstanding(self, run: int) -> list[str]:
        """Messages of the run that are not answered."""
        with self._explained():
            rows = self._connection.execute(
                "SELECT message FROM messages WHERE run = ? AND stage != 'answered' ORDER BY number", (run,)
            ).fetchall()
        return [message for (message,) in rows]

    def recover(self) -> None:
        """After a start: what was begun and may be run once only is answered with ``restarted``."""
        with self._transaction() as rows:
            rows.execute(
                "UPDATE messages SET stage = 'answered', error = 'restarted', reply = ? WHERE stage = 'begun'",
                (_joined(()),),
            )

    def expire(self, now: float) -> None:
        """Forgets envelopes and replies that nobody waits for any more; that there was a message, with its run."""
        with self._transaction() as rows:
            rows.execute(
                "UPDATE messages SET stage = 'answered', envelope = NULL, reply = NULL, posted = 1 "
                "WHERE expires <= ? AND stage != 'begun' AND (reply IS NOT NULL OR envelope IS NOT NULL)",
                (now,),
            )

    def _answers(self, where: str, values: tuple[object, ...]) -> list[Answered]:
        with self._explained():
            rows = self._connection.execute(
                f"SELECT run, message, expires, reply, error FROM messages WHERE {where} ORDER BY number",  # noqa: S608 - ours
                values,
            ).fetchall()
        return [Answered(run, message, expires, _split(reply), error) for run, message, expires, reply, error in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"the device's journal {self._path} cannot be used ({error}): free the disk, or if it is damaged move "
                "it away. The runs that are under way are lost with it; what was paid is in the ledgers"
            ) from error


def _joined(parts: Sequence[Buffer]) -> bytes:
    """Number of parts, their lengths (8 bytes each), and the parts: what the encoder of messages takes too long for."""
    lengths = [len(parts), *map(len, parts)]
    return b"".join([struct.pack(f"<{len(lengths)}Q", *lengths), *parts])


def _split(data: bytes) -> tuple[bytes, ...]:
    (count,) = struct.unpack_from("<Q", data)
    starts = list(itertools.accumulate(struct.unpack_from(f"<{count}Q", data, 8), initial=8 * (count + 1)))
    return tuple(data[start:end] for start, end in itertools.pairwise(starts))
