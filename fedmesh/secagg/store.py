"""What a device must remember about its sessions, so that it never signs twice nor reveals twice: a small SQLite file.

Guarantees, also after ``kill -9``, a power cut or from several processes: a round is begun only above every one begun
before, or again if it was begun and nothing is signed in it or above; an attempt only above the ones begun; one masked
input and one unmask reply leave a session; one survivor set is signed a round. Every fact is on the disk before the
method returns. A file that is damaged, foreign or gone while its journal is there is refused, never made anew. It holds
no secret, and stays small however many rounds there were.

Not guaranteed: anything against whoever may write the file, or restores an old copy of it; a disk that acknowledges
what it has not written.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Self

from fedmesh.errors import SecAggError
from fedmesh.secagg.store_file import StoreFile, checksum

__all__ = ["Store"]

_OPEN_ROUNDS = 16
"""Rounds of a task begun and not signed that are remembered; of more the lowest are closed for good."""
_TASKS = 1_000
_LARGEST = (1 << 63) - 1  # SQLite's integers
_LONGEST_NAME = 1_000  # bytes


class Store:
    """The memory of one device at `path`, created (mode 0600) if there is none; in memory, for this object, if None.

    May be shared by threads and processes, not carried over a fork.

    Raises:
        SecAggError: ``store``: the file is damaged, foreign, locked for seconds, or cannot be read or written. Every
            method raises it; whatever was about to be sent must then not be sent.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._file = StoreFile(None if path is None else Path(path))
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Store({self._file.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file; idempotent."""
        self._file.close()

    def begin(self, task: str, round: int, attempt: int, sid: bytes) -> None:  # noqa: A002  # the protocol's word
        """Remembers that this attempt is under way; an earlier attempt of the round can no longer be signed.

        A round may be begun while earlier ones go on, and an earlier one again while it is not signed; of a task about
        16 unsigned ones are kept, the highest.

        Raises:
            SecAggError: ``replay``: the round is not above the last signed one, or new and not above every one begun;
                or the attempt is not above every one begun for the round.
        """
        _check(task, round, attempt)
        with self._transaction() as rows:
            floor = rows.floor(task)
            if round <= floor:
                raise SecAggError(
                    f"round {round} of {task!r} was asked to begin, but round {floor} is over: "
                    "only a later round can begin",
                    code="replay",
                )
            known = rows.session(task, round)
            if known and attempt <= known.attempt:
                raise SecAggError(
                    f"attempt {attempt} at round {round} of {task!r} was asked to begin, but attempt {known.attempt} "
                    "was begun: only a later attempt can begin",
                    code="replay",
                )
            if not known and round <= (highest := rows.highest(task)):
                raise SecAggError(
                    f"round {round} of {task!r} was asked to begin, but round {highest} was begun: only a later round "
                    "can begin, or another attempt at one that was begun",
                    code="replay",
                )
            rows.put(task, round, _Session(attempt, bytes(sid)))
            rows.close_lowest(task, floor)

    def mask_once(self, task: str, round: int, attempt: int) -> None:  # noqa: A002  # the protocol's word
        """Remembers that the masked input of this session is about to leave.

        Two under the same masks would give away their difference, even to somebody who put an old state back.

        Raises:
            SecAggError: ``replay``: one left before, or the session is no longer the current one. ``session``: it
                was never begun here.
        """
        _check(task, round, attempt)
        with self._transaction() as rows:
            session = _current(rows, task, round, attempt)
            if session.masked:
                raise SecAggError(
                    f"a second masked input was asked for in round {round} of {task!r}, attempt {attempt}: one leaves "
                    "a device",
                    code="replay",
                )
            rows.put(task, round, replace(session, masked=True))

    def sign_once(
        self,
        task: str,
        round: int,  # noqa: A002  # the protocol's word
        attempt: int,
        digest: bytes,
        sign: Callable[[], bytes],
    ) -> bytes:
        """The signature by `sign` over `digest`, the only one this round will ever get.

        Args:
            task: the task's name.
            round: its round.
            attempt: the one that was begun last.
            digest: 32 bytes that stand for the survivor set.
            sign: called at most once, when nothing was signed yet; must not use this store.

        Raises:
            SecAggError: ``consistency``: another digest was signed for this session. ``replay``: another attempt
                was begun or signed, or a later round was signed. ``turn``: no masked input left in it.
                ``session``: it was never begun here.
        """
        _check(task, round, attempt)
        with self._transaction() as rows:
            session = _current(rows, task, round, attempt)
            if session.signature is not None:
                if session.digest != digest:
                    raise SecAggError(
                        f"a second survivor set came for round {round} of {task!r}, attempt {attempt}: one was signed, "
                        "and signing another could reveal a single input",
                        code="consistency",
                    )
                return session.signature
            if not session.masked:
                raise SecAggError(
                    f"a signature was asked for in round {round} of {task!r} before its masked input left", code="turn"
                )
            signature = bytes(sign())
            rows.put(task, round, replace(session, digest=bytes(digest), signature=signature))
            rows.close_below(task, round)
            return signature

    def release_once(self, task: str, round: int, attempt: int) -> None:  # noqa: A002  # the protocol's word
        """Remembers that the shares of this session are about to leave.

        Raises:
            SecAggError: ``replay``: they left before, or the session is no longer the current one. ``turn``:
                nothing was signed yet. ``session``: it was never begun here.
        """
        _check(task, round, attempt)
        with self._transaction() as rows:
            session = _current(rows, task, round, attempt)
            if session.signature is None:
                raise SecAggError(
                    f"shares of round {round} of {task!r} were asked for before a survivor set was signed", code="turn"
                )
            if session.released:
                raise SecAggError(
                    f"the shares of round {round} of {task!r}, attempt {attempt}, were asked for again: "
                    "they leave once",
                    code="replay",
                )
            rows.put(task, round, replace(session, released=True))

    @contextmanager
    def _transaction(self) -> Iterator["_Rows"]:
        with self._lock, self._file.transaction() as connection:
            yield _Rows(connection, self._file)


@dataclass(frozen=True, slots=True)
class _Session:
    """What is remembered of one round: its last attempt, and what left the device in it."""

    attempt: int
    sid: bytes
    masked: bool = False
    digest: bytes | None = None
    signature: bytes | None = None
    released: bool = False


class _Rows:
    """The rows of the file inside one transaction; each carries a checksum, since SQLite's pages have none."""

    __slots__ = ("_connection", "_file")

    def __init__(self, connection: sqlite3.Connection, file: StoreFile) -> None:
        self._connection, self._file = connection, file

    def floor(self, task: str) -> int:
        """The highest round that cannot begin again, -1 if any can."""
        row = self._row("SELECT floor, checksum FROM tasks WHERE task = ?", task)
        return -1 if row is None else int(row[0])

    def session(self, task: str, number: int) -> _Session | None:
        """The session remembered for a round, None if there is none."""
        row = self._row(
            "SELECT attempt, sid, masked, digest, signature, released, checksum FROM sessions "
            "WHERE task = ? AND round = ?",
            task,
            number,
        )
        return None if row is None else _Session(*row[:-1])

    def highest(self, task: str) -> int:
        """The highest round remembered, -1 if there is none."""
        (found,) = self._connection.execute("SELECT max(round) FROM sessions WHERE task = ?", (task,)).fetchone()
        return -1 if found is None else int(found)

    def put(self, task: str, number: int, session: _Session) -> None:
        """Writes the session of a round over the one that was there."""
        values = (task, number, *(int(v) if isinstance(v, bool) else v for v in astuple(session)))
        self._connection.execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, checksum(*values))
        )

    def close_below(self, task: str, number: int) -> None:
        """Makes `number` the floor, and forgets the rounds below it."""
        self._set_floor(task, number)
        self._connection.execute("DELETE FROM sessions WHERE task = ? AND round < ?", (task, number))

    def close_lowest(self, task: str, floor: int) -> None:
        """Closes the lowest unsigned rounds beyond those that are remembered: an aggregator may begin any number."""
        (excess,) = self._connection.execute(
            "SELECT count(*) - ? FROM sessions WHERE task = ? AND digest IS NULL", (_OPEN_ROUNDS, task)
        ).fetchone()
        if excess > 0:
            lowest = self._connection.execute(
                "SELECT round FROM sessions WHERE task = ? AND digest IS NULL ORDER BY round LIMIT ?", (task, excess)
            ).fetchall()
            floor = max(floor, *(number for (number,) in lowest))
            self._connection.execute(
                "DELETE FROM sessions WHERE task = ? AND digest IS NULL AND round <= ?", (task, floor)
            )
        self._set_floor(task, floor)

    def _set_floor(self, task: str, floor: int) -> None:
        (others,) = self._connection.execute("SELECT count(*) FROM tasks WHERE task <> ?", (task,)).fetchone()
        if others >= _TASKS:
            raise self._file.failed(f"remembers {others} tasks, and no more fit: move it away if they are over")
        self._connection.execute(
            "INSERT OR REPLACE INTO tasks (task, floor, checksum) VALUES (?, ?, ?)",
            (task, floor, checksum(task, floor)),
        )

    def _row(self, query: str, *key: str | int) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(query, key).fetchone()
        if row is not None and row[-1] != checksum(*key, *row[:-1]):
            raise self._file.failed("is damaged: an entry does not have its checksum")
        return row


def _current(rows: _Rows, task: str, number: int, attempt: int) -> _Session:
    """The session, if it is the one that goes on in its round."""
    session = rows.session(task, number)
    if session is None:
        over = number <= rows.floor(task)
        raise SecAggError(
            f"round {number} of {task!r} is over: a later one was signed"
            if over
            else f"round {number} of {task!r} was never begun here: was the store moved away?",
            code="replay" if over else "session",
        )
    if session.attempt != attempt:
        raise SecAggError(
            f"attempt {attempt} at round {number} of {task!r} is asked for, but attempt {session.attempt} "
            "was begun last",
            code="replay",
        )
    return session


def _check(task: str, number: int, attempt: int) -> None:
    if not isinstance(task, str) or not 0 < len(task.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME:
        raise SecAggError(f"a task's name is a text of 1 to {_LONGEST_NAME} bytes", code="malformed")
    for what, value in (("round", number), ("attempt", attempt)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise SecAggError(f"the {what} is {value!r:.40}, wanted a whole number from 0 to 2^63-1", code="malformed")
