"""What an authority must not forget: parties, certificates, tokens and the lists it signed last. One SQLite file.

Every change is one durable transaction that no other process comes between, so that a token is used once however many
servers and commands work on the file. Knows nothing of why a row is written: the rules are the issuer's.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedmesh.errors import ConfigError

__all__ = ["Certified", "Issued", "ListRow", "Party", "Register", "Rows", "TokenRow"]

_APPLICATION = 0x464D4341  # "FMCA": in the header of the file
_VERSION = 1
_WAIT_S = 10.0
_KEEP_S = 90 * 86_400  # how long a row that is over is still told apart from one that never was
_PARTIES = (
    "CREATE TABLE parties (id TEXT NOT NULL PRIMARY KEY, signing_key BLOB NOT NULL, server INTEGER NOT NULL,"
    " enrolled INTEGER NOT NULL, revoked INTEGER) STRICT"
)
_CERTIFICATES = (
    "CREATE TABLE certificates (serial BLOB NOT NULL PRIMARY KEY, id TEXT NOT NULL REFERENCES parties (id),"
    " der BLOB NOT NULL, key BLOB NOT NULL, not_after INTEGER NOT NULL, revoked INTEGER) STRICT"
)
_TOKENS = (
    "CREATE TABLE tokens (hash BLOB NOT NULL PRIMARY KEY, id TEXT NOT NULL, expires INTEGER NOT NULL,"
    " again INTEGER NOT NULL, used INTEGER, serial BLOB) STRICT"
)
_LISTS = (
    "CREATE TABLE lists (kind TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, issued INTEGER NOT NULL,"
    " content BLOB NOT NULL, signed BLOB NOT NULL) STRICT"
)
_RIGHTS = "CREATE TABLE IF NOT EXISTS rights (id TEXT NOT NULL, given TEXT NOT NULL, PRIMARY KEY (id, given)) STRICT"
# Not in every register: those from before there were rights get it when the first one is given.
_TABLES = (
    _PARTIES,
    _CERTIFICATES,
    "CREATE INDEX certificates_of ON certificates (id)",
    "CREATE INDEX certificates_for ON certificates (key)",
    _TOKENS,
    _LISTS,
    _RIGHTS,
)


@dataclass(frozen=True, slots=True)
class Party:
    """A device or server; times are seconds since 1970, `revoked` None while it is not."""

    id: str
    signing_key: bytes
    server: bool
    enrolled: int
    revoked: int | None


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate that was issued to `id`; `key` is the SHA-256 of its public key."""

    serial: int
    id: str
    der: bytes
    key: bytes
    not_after: int
    revoked: int | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token for `id`; `again`: it may replace what is enrolled; `serial`: of the certificate that it was used for."""

    hash: bytes
    id: str
    expires: int
    again: bool
    used: int | None
    serial: int | None


@dataclass(frozen=True, slots=True)
class ListRow:
    """The list of a kind that was signed last; `content` is the SHA-256 of what it says apart from version and time."""

    kind: str
    version: int
    issued: int
    content: bytes
    signed: bytes


Issued = tuple[Party, Certified | None]
"""A party and its newest certificate."""


class Register:
    """The file at `path`. Raises: ConfigError: as every method: it is missing, damaged or locked for ten seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self.reading():
            pass

    @classmethod
    def create(cls, path: Path) -> "Register":
        """A new file, readable by its owner alone. Raises: ConfigError: there is one already."""
        try:
            path.touch(mode=0o600, exist_ok=False)
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                for statement in (
                    f"PRAGMA application_id = {_APPLICATION}",
                    f"PRAGMA user_version = {_VERSION}",
                    "PRAGMA synchronous = FULL",
                    *_TABLES,
                ):
                    connection.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot make the register {path}: {error}") from error
        return cls(path)

    @contextmanager
    def reading(self) -> Iterator["Rows"]:
        """The rows, as of one moment."""
        with self._transaction("BEGIN") as rows:
            yield rows

    @contextmanager
    def writing(self) -> Iterator["Rows"]:
        """The rows, to be changed: all changes are durable afterwards, or, after an exception, none were made."""
        with self._transaction("BEGIN IMMEDIATE") as rows:
            yield rows

    @contextmanager
    def _transaction(self, begin: str) -> Iterator["Rows"]:
        try:
            connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S, isolation_level=None
            )
            with closing(connection):
                self._check(connection)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute(begin)
                yield Rows(connection)  # closing without COMMIT rolls back
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise ConfigError(
                f"the register {self._path} cannot be used ({error}): make it with fedmesh ca init, or put back a copy"
            ) from error

    def _check(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if (application, version) != (_APPLICATION, _VERSION):
            raise ConfigError(f"{self._path} is not a register of version {_VERSION} of an authority")


class Rows:
    """The rows of a register within one transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def party(self, name: str) -> Party | None:
        """The party called `name`."""
        row = self._connection.execute("SELECT * FROM parties WHERE id = ?", (name,)).fetchone()
        return None if row is None else _party(row)

    def parties(self) -> list[Issued]:
        """Everybody who ever was enrolled, by id, with the newest certificate that is not revoked."""
        found = self._connection.execute("SELECT * FROM parties ORDER BY id").fetchall()
        return [(party := _party(row), next(iter(self.certificates(party.id)), None)) for row in found]

    def owner_of(self, signing_key: bytes) -> str | None:
        """Who has this Ed25519 key."""
        row = self._connection.execute("SELECT id FROM parties WHERE signing_key = ?", (signing_key,)).fetchone()
        return None if row is None else str(row[0])

    def certified(self, serial: int) -> Certified | None:
        """The certificate with this serial number."""
        row = self._connection.execute("SELECT * FROM certificates WHERE serial = ?", (_blob(serial),)).fetchone()
        return None if row is None else _certified(row)

    def certificates(self, name: str) -> list[Certified]:
        """Those of `name` that are not revoked, the newest first."""
        query = "SELECT * FROM certificates WHERE id = ? AND revoked IS NULL ORDER BY rowid DESC"
        return [_certified(row) for row in self._connection.execute(query, (name,))]

    def holder_of(self, key: bytes) -> str | None:
        """To whom a certificate for the public key of this SHA-256 was issued."""
        row = self._connection.execute("SELECT id FROM certificates WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def revoked(self, now: float) -> dict[int, str]:
        """Serial number -> id of what is revoked and not yet expired."""
        query = "SELECT serial, id FROM certificates WHERE revoked IS NOT NULL AND not_after >= ?"
        return {
            int.from_bytes(serial, "big"): str(name) for serial, name in self._connection.execute(query, (int(now),))
        }

    def token(self, token_hash: bytes) -> TokenRow | None:
        """The token with this hash."""
        row = self._connection.execute("SELECT * FROM tokens WHERE hash = ?", (token_hash,)).fetchone()
        if row is None:
            return None
        found, name, expires, again, used, serial = row
        return TokenRow(
            found, name, expires, bool(again), used, None if serial is None else int.from_bytes(serial, "big")
        )

    def waiting_tokens(self, now: float) -> dict[str, int]:
        """Id -> when its last unused token expires, of those that have not."""
        query = "SELECT id, MAX(expires) FROM tokens WHERE used IS NULL AND expires >= ? GROUP BY id ORDER BY id"
        return {str(name): int(expires) for name, expires in self._connection.execute(query, (int(now),))}

    def list_row(self, kind: str) -> ListRow | None:
        """The list of `kind` that was signed last."""
        row = self._connection.execute("SELECT * FROM lists WHERE kind = ?", (kind,)).fetchone()
        return None if row is None else ListRow(*row)

    def rights(self) -> dict[str, frozenset[str]]:
        """Id -> rights that were given to it, and not taken back."""
        if self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'rights'").fetchone() is None:
            return {}
        found: dict[str, frozenset[str]] = {}
        for name, given in self._connection.execute("SELECT id, given FROM rights"):
            found[name] = found.get(name, frozenset()) | {given}
        return found

    def give_right(self, name: str, right: str) -> None:
        """Gives it; again changes nothing."""
        self._connection.execute(_RIGHTS)
        self._connection.execute("INSERT OR IGNORE INTO rights VALUES (?, ?)", (name, right))

    def take_rights(self, name: str) -> None:
        """Takes all back that `name` has."""
        self._connection.execute(_RIGHTS)
        self._connection.execute("DELETE FROM rights WHERE id = ?", (name,))

    def put_party(self, party: Party) -> None:
        """Writes `party` over whoever had its id."""
        self._connection.execute(
            "INSERT INTO parties VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " signing_key = excluded.signing_key, server = excluded.server,"
            " enrolled = excluded.enrolled, revoked = excluded.revoked",
            (party.id, party.signing_key, int(party.server), party.enrolled, party.revoked),
        )

    def add_certificate(self, row: Certified) -> None:
        """Writes a new certificate."""
        values = (_blob(row.serial), row.id, row.der, row.key, row.not_after, row.revoked)
        self._connection.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?)", values)

    def revoke_certificates(self, name: str, now: float) -> int:
        """Revokes those of `name`; returns how many were not yet."""
        query = "UPDATE certificates SET revoked = ? WHERE id = ? AND revoked IS NULL"
        return self._connection.execute(query, (int(now), name)).rowcount

    def add_token(self, row: TokenRow) -> None:
        """Writes a new, unused token."""
        query = "INSERT INTO tokens VALUES (?, ?, ?, ?, NULL, NULL)"
        self._connection.execute(query, (row.hash, row.id, row.expires, int(row.again)))

    def use_token(self, token_hash: bytes, serial: int, now: float) -> None:
        """Marks the token as used, for the certificate with this serial number."""
        query = "UPDATE tokens SET used = ?, serial = ? WHERE hash = ?"
        self._connection.execute(query, (int(now), _blob(serial), token_hash))

    def drop_tokens(self, name: str) -> int:
        """Removes the unused tokens of `name`; returns how many there were."""
        return self._connection.execute("DELETE FROM tokens WHERE id = ? AND used IS NULL", (name,)).rowcount

    def put_list(self, row: ListRow) -> None:
        """Writes a signed list over the one before."""
        values = (row.kind, row.version, row.issued, row.content, row.signed)
        self._connection.execute("INSERT OR REPLACE INTO lists VALUES (?, ?, ?, ?, ?)", values)

    def prune(self, now: float) -> None:
        """Removes tokens and certificates that were over three months ago."""
        for table, column in (("tokens", "expires"), ("certificates", "not_after")):
            query = f"DELETE FROM {table} WHERE {column} < ?"  # noqa: S608 - names of our own
            self._connection.execute(query, (int(now) - _KEEP_S,))


def _party(row: tuple[str, bytes, int, int, int | None]) -> Party:
    name, key, server, enrolled, revoked = row
    return Party(name, key, bool(server), enrolled, revoked)


def _certified(row: tuple[bytes, str, bytes, bytes, int, int | None]) -> Certified:
    serial, name, der, key, not_after, revoked = row
    return Certified(int.from_bytes(serial, "big"), name, der, key, not_after, revoked)


def _blob(serial: int) -> bytes:
    return serial.to_bytes(20, "big")
